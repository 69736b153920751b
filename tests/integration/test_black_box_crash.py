"""A run behind a black box that is cut off: what was answered is never asked again, and the end is the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from oracle_process import ROOT

from reprogram import build
from reprogram.errors import RunError
from reprogram.runs import train
from reprogram.sources.ledger import Ledger
from reprogram.training.step_checkpoint import StepCheckpoint

BLACK_BOX = (
    "access=black_box", "access.store=on", "access.queries_per_second=1000", "access.micro_batch=8",
    "estimator=two_sided", "program.size=32", "program.resolution=4", "mapping=linear", "mapping.learn=false",
    "data.batch_size=16", "callbacks.checkpoint_every=2", "evaluation.baselines=[]", "trainer.max_epochs=-1",
)  # fmt: skip
STEP = 2 * 16  # queries
BESIDE = 2 * 96 + 5 * 40 + 40  # queries for the mapping, validation and test


class CutError(Exception):
    pass


class _Cut(pl.Callback):
    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self._cut)

    def _cut(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise CutError


@pytest.fixture
def cut(small, monkeypatch):
    """Runs to a hook of a step, and no further; a power cut saves nothing at the end."""
    made = build.callbacks

    def run(hook: str, step: int, *overrides: str, power: bool = True) -> None:
        def callbacks(*args: object) -> list[pl.Callback]:
            found = made(*args)
            for callback in found:
                if isinstance(callback, StepCheckpoint) and power:
                    callback.saves_on_exception = False
            return [*found, _Cut(hook, step)]

        with monkeypatch.context() as patched:
            patched.setattr(build, "callbacks", callbacks)
            with pytest.raises(CutError):
                train(small(*overrides))

    return run


def _same_end(first: Path, second: Path) -> None:
    for name in ("program/program.safetensors", "predictions.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


# 6 steps an epoch, validations after every 4th step
HOOKS = [
    ("on_validation_start", 4),  # within an epoch
    ("on_train_epoch_end", 6),
    ("on_validation_start", 12),  # at the end of an epoch
    ("on_train_batch_start", 12),  # at the start of the next
    ("on_before_zero_grad", 13),  # within a step
    ("on_train_end", 16),
]


@pytest.mark.parametrize("power", [True, False])
def test_a_run_that_is_cut_off_again_and_again_asks_nothing_twice(power, cut, small, tmp_path: Path) -> None:
    overrides = (*BLACK_BOX, f"access.query_budget={16 * STEP + BESIDE}")
    whole = train(small(*overrides, run_dir="whole"))
    assert whole.metrics["queries"]["total"] == 16 * STEP + BESIDE
    for hook, step in HOOKS:
        cut(hook, step, *overrides, power=power)
        assert Ledger(tmp_path / "run" / "ledger.sqlite", ".").spent()["train"] in (step * STEP, (step + 1) * STEP)
    again = train(small(*overrides))
    assert again.metrics["queries"] == whole.metrics["queries"]
    for key in ("val", "test", "best_step", "best_epoch"):
        assert again.metrics[key] == whole.metrics[key]
    _same_end(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(("purpose", "steps"), [("validation", 15), ("train", 15)])
def test_lost_queries_cost_the_last_steps_and_nothing_else(purpose, steps, cut, small, tmp_path: Path) -> None:
    budget = 16 * STEP + BESIDE
    overrides = (*BLACK_BOX, f"access.query_budget={budget}")
    cut("on_train_batch_start", 2, *overrides)
    dead = Ledger(tmp_path / "run" / "ledger.sqlite", ".", budget)
    with dead.purpose(purpose):
        dead.spend(8)  # and dies before the answers come
    result = train(small(*overrides))
    assert result.metrics["queries"]["uncertain"] == 8
    assert result.metrics["queries"]["train"] == steps * STEP + (8 if purpose == "train" else 0)
    assert result.metrics["queries"]["validation"] == 5 * 40 + (8 if purpose == "validation" else 0)
    assert result.metrics["queries"]["test"] == 40
    assert result.metrics["queries"]["total"] == budget - STEP + 8


def test_what_was_trained_before_a_cut_is_validated_where_no_step_can_be_paid_after_it(cut, small, tmp_path) -> None:
    budget = 16 * STEP + BESIDE
    overrides = (*BLACK_BOX, "access.store=auto", f"access.query_budget={budget}")
    cut("on_train_batch_start", 14, *overrides)
    dead = Ledger(tmp_path / "run" / "ledger.sqlite", ".", budget)
    with dead.purpose("train"):
        dead.spend(STEP + 1)  # and dies: of two steps to come none is left
    result = train(small(*overrides, "callbacks.min_delta=0"))
    assert [row["step"] for row in result.metrics["history"]] == [0, 4, 8, 12, 14]
    assert result.metrics["queries"]["total"] <= budget
    assert result.metrics["queries"]["validation"] == 5 * 40


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_is_continued_with_its_own_account_or_not_at_all(shared, cut, small, tmp_path, monkeypatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    overrides = (*BLACK_BOX, f"access.query_budget={16 * STEP + BESIDE}", *(["access.ledger=acc.sqlite"] * shared))
    monkeypatch.chdir(first)
    cut("on_train_batch_start", 2, *overrides)
    monkeypatch.chdir(second)
    resumed = small(f"resume={tmp_path / 'run'}")
    file = first / "acc.sqlite" if shared else tmp_path / "run" / "ledger.sqlite"
    away = file.rename(tmp_path / "away")
    with pytest.raises(RunError, match=r"expected the account of the unfinished run .* does not know it; put file and"):
        train(resumed)
    away.rename(file)
    assert train(resumed).metrics["queries"]["total"] == 16 * STEP + BESIDE
    assert not list(second.iterdir())


@pytest.mark.parametrize("content", ["", "no: [config", "- 1"])
def test_a_broken_configuration_is_told(content, small, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=r"(?s)config\.yaml: .*put a copy back"):
        train(small(f"resume={tmp_path / 'run'}"))


@pytest.mark.slow
def test_sigkill_at_random_moments() -> None:
    command = [sys.executable, "-m", "scripts.check_crash", "--kills", "3", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "equal those of a run without kills" in done.stdout
