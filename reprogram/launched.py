"""What a launcher told this process: how many there are and which it is, before they have met."""

import os
from typing import Any


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


def as_launched(trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainer's block with the processes and nodes that torchrun or srun has started, where one has."""
    found = from_outside()
    if found is None or trainer["strategy"] == "auto":
        return trainer
    return {**trainer, "devices": found[0], "num_nodes": found[1]}


def processes(trainer: dict[str, Any]) -> int:
    """How many processes train together."""
    import torch  # manual pages are shown without it

    devices = trainer["devices"]
    if not isinstance(devices, int) or devices < 1:
        devices = torch.cuda.device_count() if devices in (-1, "auto") and torch.cuda.is_available() else 1
    return max(1, devices) * int(trainer["num_nodes"])
