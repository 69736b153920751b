"""A run that was killed continues as if nothing had happened."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from reprogram import build, finishing
from reprogram.errors import RunError
from reprogram.runs import train
from reprogram.training.step_checkpoint import StepCheckpoint

STEPS = "data.batch_size=16"  # 6 steps an epoch
BARE = "evaluation.baselines=[]"
CHOICES = {
    "ILM": ("mapping=frequency", "mapping.refresh=1"),
    "linear": ("mapping=linear", "mapping.refresh=1"),
}


class PowerCutError(Exception):
    pass


class _Cut(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise PowerCutError


def _state(run_dir: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _same(first: Path, second: Path) -> None:
    one, other = _state(first), _state(second)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    assert (first / "predictions.csv").read_text() == (second / "predictions.csv").read_text()


@pytest.mark.parametrize(("choice", "cut_at"), [("ILM", 3), ("ILM", 6), ("linear", 8)])
def test_cut_and_continued_equals_uninterrupted(choice, cut_at, small, tmp_path: Path, monkeypatch) -> None:
    overrides = (*CHOICES[choice], STEPS, BARE, "trainer.max_epochs=3", "callbacks.checkpoint_every=2")
    whole = train(small(*overrides, run_dir="whole"))

    made = build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda *args: [*_without_saving_on_exception(made(*args)), _Cut(cut_at)])
    with pytest.raises(PowerCutError):
        train(small(*overrides))
    monkeypatch.setattr(build, "callbacks", made)
    assert not (tmp_path / "run" / "metrics.json").exists()
    again = train(small(*overrides))

    _same(tmp_path / "whole", tmp_path / "run")
    for split in ("val", "test"):
        assert again.metrics[split] == whole.metrics[split]
    assert again.metrics["best_epoch"] == whole.metrics["best_epoch"]


def _without_saving_on_exception(callbacks: list[pl.Callback]) -> list[pl.Callback]:
    """A power cut saves nothing."""
    for callback in callbacks:
        if isinstance(callback, StepCheckpoint):
            callback.saves_on_exception = False
    return callbacks


def test_ctrl_c_leaves_a_checkpoint_that_continues(small, tmp_path: Path, monkeypatch) -> None:
    overrides = (STEPS, BARE, "trainer.max_epochs=2", "callbacks.checkpoint_every=100", "mapping=frequency")
    train(small(*overrides, run_dir="whole"))

    class CtrlC(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == 4:
                raise KeyboardInterrupt

    made = build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda *args: [*made(*args), CtrlC()])
    with pytest.raises(KeyboardInterrupt):
        train(small(*overrides))
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    monkeypatch.setattr(build, "callbacks", made)
    train(small(*overrides))
    _same(tmp_path / "whole", tmp_path / "run")


def test_resume_uses_the_configuration_the_run_was_started_with(small, tmp_path: Path, monkeypatch) -> None:
    overrides = (STEPS, BARE, "callbacks.checkpoint_every=2", "seed=3")
    made = build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda *args: [*made(*args), _Cut(5)])
    with pytest.raises(PowerCutError):
        train(small(*overrides))
    monkeypatch.setattr(build, "callbacks", made)
    result = train({**build.plain(small()), "resume": str(tmp_path / "run")})
    assert result.metrics["seed"] == 3
    assert result.run_dir == tmp_path / "run"
    with pytest.raises(RunError, match=r"no config\.yaml"):
        train({**build.plain(small()), "resume": str(tmp_path / "nowhere")})


def test_a_full_disk_ends_the_run_with_a_message_and_costs_nothing(small, tmp_path: Path, monkeypatch) -> None:
    overrides = (STEPS, BARE, "callbacks.checkpoint_every=2")
    train(small(*overrides, run_dir="whole"))
    flush, flushed = os.fsync, []

    def full(file: int) -> None:
        flushed.append(file)
        if len(flushed) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(
            RunError, match=r"ckpt: cannot write a checkpoint \(No space left .*the same command continues"
        ):
            train(small(*overrides))
    with monkeypatch.context() as patched:
        patched.setattr(finishing, "write_csv", lambda *_: full(0))
        with pytest.raises(
            RunError, match=r"run_dir: cannot write to .*run: No space left .*the same command continues"
        ):
            train(small(*overrides))
    train(small(*overrides))
    _same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_sigkill_in_mid_epoch_and_resume(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "reprogram.commands.train", "mapping=frequency", "data.batch_size=4", "logger=none",
        "trainer.max_epochs=3", "callbacks.checkpoint_every=5", "evaluation.num_resamples=20", BARE,
        "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40",
        "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = subprocess.Popen([*command, f"run_dir={run}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = run / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert last.exists()
    assert not (run / "metrics.json").exists()
    subprocess.run([*command[:3], f"resume={run}"], check=True, capture_output=True)
    subprocess.run([*command, f"run_dir={whole}"], check=True, capture_output=True)
    _same(whole, run)
