"""Scores a finished run again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reprogram import artefact, build
from reprogram.errors import ConfigError, DataError
from reprogram.evaluation.intervals import with_intervals
from reprogram.evaluation.predictions import write_csv
from reprogram.evaluation.scoring import score
from reprogram.records import RunDirectory


def evaluate(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Scores a finished run again, on its own data or on other data of the same classes, and writes the records.

    Args:
        cfg: As composed from ``configs/evaluate.yaml``.

    Returns:
        ``{"split", "metrics", "recorded", "output"}``; ``recorded``: the run's own metrics of this split, if it is
        the same data.

    Raises:
        RunError: If the run is not finished.
        DataError: If the other data has other classes.
    """
    cfg = build.plain(cfg)
    directory = RunDirectory(Path(cfg["run"]))
    own = directory.read_config()
    recorded = directory.read_metrics()
    device_type = build.device_type(cfg["accelerator"])
    classifier = artefact.load(directory.path, device=device_type)
    other = cfg.get("data") is not None
    data = build.task_data(cfg if other else own)
    if data.spec.class_names != classifier.class_names:
        raise DataError(
            f"data: expected the classes of the run, {list(classifier.class_names)}, got {list(data.spec.class_names)}"
        )
    split = cfg["split"]
    if split not in data.splits:
        raise ConfigError(f"split: expected train, val or test, got '{split}'")
    batch_size = cfg["batch_size"] or own["data"]["batch_size"]
    predictions = score(classifier, data.splits[split], split, batch_size, torch.device(device_type))
    scores = with_intervals(predictions, data.spec.ordinal, cfg["num_resamples"], own["seed"])
    output = Path(cfg["output"] or directory.path / "evaluations" / f"{data.spec.name}_{split}")
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "predictions.csv", [predictions], classifier.class_names)
    record = {"run": str(directory.path), "task": data.spec.name, "split": split, "metrics": scores}
    artefact.write_json(output / "metrics.json", record)
    return {**record, "recorded": None if other else recorded.get(split), "output": str(output)}
