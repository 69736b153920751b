"""What goes to Weights & Biases, and what must not."""

import csv
from pathlib import Path

import pytest

from reprogram import build, trainers
from reprogram.errors import ConfigError
from reprogram.runs import train
from reprogram.training import wandb_logging


@pytest.mark.slow
def test_wandb_runs_offline_without_a_key(small, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    train(small("logger=wandb", "mapping=frequency"))
    offline = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(offline) == 1
    names = {path.name.split("_")[0] for path in (offline[0] / "files").rglob("*") if path.is_file()}
    assert {"program", "examples", "curves", "confusion"} <= names
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert any(row["val/accuracy"] for row in csv.DictReader(file))


@pytest.mark.parametrize("private", [True, False])
def test_examples_of_private_data_stay_here(private, small, monkeypatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(wandb_logging, "record_results", lambda *args: sent.extend(path.stem for path in args[4]))
    train(small("logger=wandb", "logger.wandb.mode=disabled", f"data.private={str(private).lower()}"))
    assert ("examples" in sent) == (not private)
    assert {"program", "curves", "confusion"} <= set(sent)


def test_a_wrong_mode_is_refused(small, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"logger\.wandb\.mode"):
        trainers.loggers(build.plain(small("logger=wandb", "logger.wandb.mode=typo")), tmp_path)
