"""What a launcher told this process: how many there are and which it is, before they have met."""

import os


def is_first() -> bool:
    """Whether this is the process that speaks and writes: neither torchrun, nor srun, nor Lightning says otherwise."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def from_outside() -> tuple[int, int] | None:
    """Processes of a node, and nodes, as torchrun or srun has started them; ``None``: nobody has."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        everywhere, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        return here, everywhere // here
    if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(os.environ["SLURM_NNODES"])
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
