"""Runs that begin with what another one has learned."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from reprogram.errors import ConfigError, RunError
from reprogram.runs import train

QUICK = ("evaluation.baselines=[majority]", "mapping.refit_at_end=false")


@pytest.mark.parametrize("mapping", ["linear", "frequency"])
def test_a_run_begins_exactly_where_the_other_one_ended(
    mapping: str, small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = "mapping.refresh=never" if mapping == "linear" else "mapping.refresh=1"  # so that the program is of use
    first = train(small(f"mapping={mapping}", *QUICK, learning, "optimizer.lr=0.1", run_dir="first"))
    learned = load_file(tmp_path / "first" / "program" / "program.safetensors")
    assert learned["program.theta"].abs().max() > 0
    monkeypatch.chdir(tmp_path)
    choice = (f"mapping={mapping}", *QUICK, "mapping.refresh=never", "seed=5", "start_from=first")
    second = train(small(*choice, run_dir="second"))
    start = torch.load(tmp_path / "second" / "checkpoints" / "start.ckpt", weights_only=True)["state_dict"]
    parts = {"linear": ["mapping.weight", "mapping.bias"], "frequency": ["mapping.assignment"]}[mapping]
    for key in ("program.theta", *parts):
        assert torch.equal(start[f"classifier.{key}"], learned[key]), key
    if mapping == "frequency":
        assert not start["classifier.mapping.counts"].any()
    began, best = second.metrics["history"][0], first.metrics["history"]
    row = next(row for row in best if row["step"] == first.metrics["best_step"])
    assert began["val/nll"] == pytest.approx(row["val/nll"], abs=1e-5)
    written = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert written["start_from"] == str(tmp_path / "first")


def test_a_checkpoint_is_more_than_a_start(small, tmp_path: Path) -> None:
    train(small(*QUICK, "optimizer.lr=0.1", run_dir="first"))
    choice = (*QUICK, "mapping.refresh=never", f"start_from={tmp_path / 'first' / 'program'}")
    whole = train(small(*choice, run_dir="whole"))
    (tmp_path / "whole" / "metrics.json").unlink()
    (tmp_path / "first").rename(tmp_path / "gone")
    again = train(small(*choice, run_dir="whole"))
    assert again.metrics["test"] == whole.metrics["test"]


def test_a_start_that_does_not_fit_is_one_message(small, tmp_path: Path) -> None:
    train(small(*QUICK, run_dir="first"))
    place = f"start_from={tmp_path / 'first'}"
    with pytest.raises(RunError, match=r"start_from: expected the program of this run, .*FullProgram.*, got .*Frame"):
        train(small(*QUICK, "program=full", place))
    with pytest.raises(RunError, match=r"start_from: expected a run of the classes \['0', .* got \['benign'"):
        train(small(*QUICK, "data=digits", place))
    with pytest.raises(RunError, match=r"nowhere: expected a finished run or its program folder"):
        train(small(*QUICK, f"start_from={tmp_path / 'nowhere'}"))
    with pytest.raises(ConfigError, match="start_from: expected a finished run, its program folder, or null, got 3"):
        train(small(*QUICK, "start_from=3"))
    assert not (tmp_path / "run").exists()
