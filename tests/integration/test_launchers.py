"""Processes that torchrun or srun starts, on one machine or several: the program of one, also after a SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from oracle_process import ROOT

from reprogram import exit_codes

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

COMMON = (
    "data=digits", "protocol.max_train=95", "protocol.max_val=41", "protocol.max_test=40", "data.batch_size=17",
    "source.precision=float32", "optimizer=plain_sgd", "optimizer.lr=1.0", "scheduler=constant",
    "trainer.max_epochs=2", "trainer.enable_progress_bar=false", "mapping=frequency", "mapping.refresh=1",
    "callbacks.checkpoint_every=2", "evaluation.baselines=[]", "evaluation.num_resamples=20", "logger=none",
)  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable}


def start(command: list[str], said: Path, **environment: str) -> "subprocess.Popen[bytes]":
    with said.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT | environment, stdout=file, stderr=file)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def program(run_dir: Path) -> torch.Tensor:
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.sigmoid(state["classifier.program.theta"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "reprogram.commands.train", *COMMON, f"run_dir={run_dir}"]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    return run_dir


def same(run_dir: Path, alone: Path) -> None:
    assert (program(run_dir) - 0.5).abs().max() > 0.01
    assert (program(run_dir) - program(alone)).abs().max() <= 1e-5
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (run_dir, alone))
    assert first["queries"] == second["queries"]
    for name, metric in second["test"].items():
        assert first["test"][name]["value"] == pytest.approx(metric["value"], abs=1e-6), name


def test_two_machines_under_torchrun(alone, tmp_path: Path) -> None:
    run_dir, said = tmp_path / "run", tmp_path / "said"
    meet = {"NODES": "2", "PROCESSES": "1", "RENDEZVOUS": f"127.0.0.1:{free_port()}", "JOB": "test"}
    command = ["scripts/torchrun.sh", "trainer=ddp_cpu", *COMMON, f"run_dir={run_dir}"]
    machines = [start(command, said, **meet) for _ in range(2)]
    assert [machine.wait(240) for machine in machines] == [0, 0], said.read_text()
    same(run_dir, alone)


def test_sigterm_to_torchrun_ends_after_a_step_and_the_same_line_continues(alone, tmp_path: Path) -> None:
    run_dir, said = tmp_path / "run", tmp_path / "said"
    command = ["scripts/torchrun.sh", "trainer=ddp_cpu", *COMMON, f"run_dir={run_dir}"]
    process = start(command, said, PROCESSES="2", RESTARTS="0")
    deadline = time.monotonic() + 120
    while not (run_dir / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == exit_codes.PREEMPTED, said.read_text()
    assert not (run_dir / "metrics.json").exists()
    assert start(command, said, PROCESSES="2", RESTARTS="0").wait(240) == 0, said.read_text()
    assert "continuing from last.ckpt" in said.read_text()
    same(run_dir, alone)


def test_two_machines_as_srun_starts_them(alone, tmp_path: Path) -> None:
    run_dir, said = tmp_path / "run", tmp_path / "said"
    command = [sys.executable, "-m", "reprogram.commands.train", "trainer=ddp_cpu", *COMMON, f"run_dir={run_dir}"]
    job = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "127.0.0.1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    tasks = [start(command, said, **job, SLURM_PROCID=r, SLURM_NODEID=r, SLURM_LOCALID="0") for r in "01"]
    assert [task.wait(240) for task in tasks] == [0, 0], said.read_text()
    same(run_dir, alone)


def test_processes_that_cannot_agree_on_a_folder_are_refused(tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = ["scripts/torchrun.sh", "trainer=ddp_cpu", *COMMON]
    assert start(command, said, PROCESSES="2", RESTARTS="0").wait(240) == 1
    assert "error: run_dir: is required when torchrun or srun starts the processes" in said.read_text()
