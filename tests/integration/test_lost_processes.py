"""A process that dies or hangs ends the others soon, with its name, and the same command continues."""

import json
import os
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
    "data=digits", "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40", "data.batch_size=16",
    "source.precision=float32", "trainer=ddp_cpu", "trainer.max_epochs=3", "trainer.enable_progress_bar=false",
    "callbacks.checkpoint_every=2", "evaluation.baselines=[]", "evaluation.num_resamples=20", "logger=none",
)  # fmt: skip
TIMEOUT = 5  # seconds that a hung process is waited for


def run(tmp_path: Path, interrupt: str, launcher: tuple[str, ...] = (sys.executable, "-m")) -> tuple[int, str]:
    """Exit code, and what was said."""
    command = [*launcher, "tests.integration.interrupted_process", *COMMON]
    command += [f"run_dir={tmp_path / 'run'}", f"trainer.strategy.timeout={TIMEOUT}"]
    said, moment = tmp_path / "said", tmp_path / "moment"
    environment = {"OMP_NUM_THREADS": "1", "REPROGRAM_INTERRUPT": interrupt, "REPROGRAM_INTERRUPTED": str(moment)}
    with said.open("w") as file:  # no pipe: a process that hangs would keep it open
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, stdout=file, stderr=file, timeout=240, check=False
        )
    assert moment.exists(), said.read_text()
    return done.returncode, said.read_text()


def finished(tmp_path: Path, said: str) -> None:
    """The end of a run that was continued from the checkpoint of a step."""
    assert "continuing from last.ckpt" in said
    assert "Traceback" not in said
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["queries"]["train"] == 3 * 96  # each image of each epoch counted once
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 18


@pytest.mark.parametrize(
    ("interrupt", "message"),
    [
        ("training 9 1 SIGKILL", "error: rank 1 of this run was killed by SIGKILL; the same command continues"),
        ("training 9 1 SIGSTOP", f"error: rank 1 of this run hung: the others have waited for {TIMEOUT} s"),
        ("training 9 1 HANG", f"error: rank 1 of this run hung: the others have waited for {TIMEOUT} s"),
    ],
    ids=["killed", "stopped", "hung"],
)
def test_a_lost_process_is_named_and_the_run_continues(interrupt, message, tmp_path: Path) -> None:
    code, said = run(tmp_path, interrupt)
    assert code == exit_codes.LOST, said
    assert message in said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    code, said = run(tmp_path, interrupt)
    assert code == 0, said
    finished(tmp_path, said)


def test_the_others_notice_that_the_first_process_was_killed(tmp_path: Path) -> None:
    code, said = run(tmp_path, "training 9 0 SIGKILL")
    assert code == -9
    deadline = time.monotonic() + 60  # the others are on their own
    while "error: rank 0 of this run died; the same command continues" not in (tmp_path / "said").read_text():
        assert time.monotonic() < deadline, (tmp_path / "said").read_text()
        time.sleep(0.2)
    code, said = run(tmp_path, "training 9 0 SIGKILL")
    assert code == 0, said
    finished(tmp_path, said)


def test_torchrun_starts_the_others_again_from_the_last_checkpoint(tmp_path: Path, monkeypatch) -> None:
    script = (ROOT / "scripts/torchrun.sh").read_text().replace("-m reprogram.commands.train", "-m")
    (tmp_path / "torchrun.sh").write_text(script)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PROCESSES", "2")
    monkeypatch.setenv("RESTARTS", "1")
    code, said = run(tmp_path, "training 9 1 SIGKILL", ("bash", str(tmp_path / "torchrun.sh")))
    assert code == 0, said
    assert "exitcode: -9" in said
    assert "local_rank: 1" in said
    assert "continuing from last.ckpt" in said
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["queries"]["train"] == 3 * 96
