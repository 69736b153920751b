"""Scores a finished run again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reprogram import artefact, build, sourcing
from reprogram.data.base import SPLITS, Examples, Table
from reprogram.data.task import load_split
from reprogram.errors import ConfigError, DataError
from reprogram.evaluation.intervals import with_intervals
from reprogram.evaluation.predictions import write_csv
from reprogram.evaluation.scoring import score
from reprogram.records import RunDirectory
from reprogram.types import TaskSpec


def evaluate(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Scores a finished run again, on its own data or on other data of the same classes, and writes the records.

    Other data are scored as they are: the rows of the split, or all rows where they have none.

    Args:
        cfg: As composed from ``configs/evaluate.yaml``.

    Returns:
        ``{"split", "metrics", "recorded", "output"}``; ``recorded``: the run's own metrics of this split, if it is
        the same data.

    Raises:
        RunError: If the run is not finished.
        DataError: If the other data have other classes or, where only a part of an image carries data, another part.
    """
    cfg = build.plain(cfg)
    directory = RunDirectory(Path(cfg["run"]))
    own = directory.read_config()
    recorded = directory.read_metrics()
    device_type = sourcing.device_type(cfg["accelerator"])
    classifier = artefact.load(directory.path, device=device_type)
    other = cfg.get("data") is not None
    split = cfg["split"]
    if split not in SPLITS:
        raise ConfigError(f"split: expected train, val or test, got '{split}'")
    if other:
        name, examples = _other(build.table(cfg), split, classifier.task)
    else:
        data = build.task_data(own)
        name, examples = data.spec.name, data.splits[split]
    batch_size = cfg["batch_size"] or own["data"]["batch_size"]
    predictions = score(classifier, examples, split, batch_size, torch.device(device_type))
    scores = with_intervals(predictions, classifier.task.ordinal, cfg["num_resamples"], own["seed"])
    output = Path(cfg["output"] or directory.path / "evaluations" / f"{name}_{split}")
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "predictions.csv", [predictions], classifier.class_names)
    record = {"run": str(directory.path), "task": name, "split": split, "metrics": scores}
    artefact.write_json(output / "metrics.json", record)
    return {**record, "recorded": None if other else recorded.get(split), "output": str(output)}


def _other(table: Table, split: str, task: TaskSpec) -> tuple[str, Examples]:
    """Name and examples of data that the run has never seen."""
    if table.class_names != task.class_names:
        raise DataError(
            f"data: expected the classes of the run, {list(task.class_names)}, got {list(table.class_names)}"
        )
    everywhere = torch.zeros(0)
    if not torch.equal(*(everywhere if mask is None else mask for mask in (table.support, task.support))):
        raise DataError(
            f"data: expected what the run was trained on ({task.name}), got features of another kind or number"
        )
    return table.name, load_split(table, split)
