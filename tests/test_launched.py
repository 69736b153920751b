"""What launchers leave in the environment."""

import pytest

from reprogram import launched

TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("environment", "first", "processes"),
    [
        ({}, True, None),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False, None),  # Lightning's
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False, None),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, True, (2, 3)),
        ({**TORCHRUN, "RANK": "2", "LOCAL_RANK": "0"}, False, (2, 3)),  # the first of another machine
        ({**SRUN, "SLURM_PROCID": "0"}, True, (4, 2)),
        ({**SRUN, "SLURM_PROCID": "4"}, False, (4, 2)),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, True, None),  # a batch script without srun
    ],
)
def test_which_process_this_is(environment, first, processes, monkeypatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK", *TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched.is_first() is first
    assert launched.from_outside() == processes
    block = {"devices": -1, "num_nodes": 1, "strategy": {"_target_": "x"}, "max_epochs": 3}
    expected = {} if processes is None else {"devices": processes[0], "num_nodes": processes[1]}
    assert launched.as_launched(block) == block | expected
    assert launched.as_launched({**block, "strategy": "auto"}) == {**block, "strategy": "auto"}
