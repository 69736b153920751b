"""Run directories as a finished run leaves them behind, without training anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from reprogram.evaluation.measure import Choices, measure
from reprogram.evaluation.predictions import Predictions, write_csv
from reprogram.records import SCHEMA_VERSION
from reprogram.types import TaskSpec

CLASSES = ("benign", "malignant")


def predictions(
    ids: Sequence[str], split: str = "test", classes: int = 2, skill: float = 1.0, seed: int = 0, groups: bool = True
) -> Predictions:
    """Targets depend on the ids alone; the larger the skill, the more the scores follow them."""
    numbers = np.array([int(name.removeprefix("row")) for name in ids])
    targets = (numbers * 7 // 3) % classes
    logits = np.random.default_rng(seed).normal(size=(len(ids), classes)) + skill * np.eye(classes)[targets]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        split,
        tuple(ids),
        targets.astype(np.int64),
        scores,
        tuple(f"patient{number // 2}" for number in numbers) if groups else None,
        {"sex": tuple("fm"[number % 2] for number in numbers), "site": tuple(f"site{n % 3}" for n in numbers)},
    )


def rows(first: int, last: int) -> list[str]:
    return [f"row{number}" for number in range(first, last)]


def make_run(
    path: Path,
    test: Sequence[str] = (*rows(0, 60),),
    seed: int = 0,
    skills: Mapping[str, float] = {"reprogrammed": 2.0, "majority": 0.0, "linear_probe": 1.0},
    classes: Sequence[str] = CLASSES,
    groups: bool = True,
    config: Mapping[str, Mapping[str, Any]] = {},
    **record: Any,
) -> Path:
    """Writes a run; ``config`` changes blocks of the configuration, ``record`` replaces entries of ``metrics.json``."""
    path.mkdir(parents=True)
    blocks: dict[str, Any] = {
        "seed": seed,
        "run_dir": str(path),
        "resume": None,
        "source": {"_target_": "reprogram.sources.torchvision.torchvision_source", "name": "resnet50"},
        "access": {"_target_": None},
        "program": {"_target_": "reprogram.programs.frame.FrameProgram", "size": None},
        "mapping": {"_target_": "reprogram.mappings.linear.LinearMapping"},
        "protocol": {"_target_": "reprogram.data.protocols.FixedSplit", "seed": 0},
        "evaluation": {"baselines": [name for name in skills if name != "reprogrammed"]},
        "trainer": {"max_epochs": 5, "enable_progress_bar": True},
        "logger": {"csv": True},
        "paper": None,
    }
    blocks |= {name: {**blocks.get(name, {}), **block} for name, block in config.items()}
    (path / "config.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))
    splits = {
        name: {
            split: predictions(ids, split, len(classes), skill, seed + 10 * place, groups)
            for split, ids in (("val", rows(1000, 1060)), ("test", test))
        }
        for place, (name, skill) in enumerate(skills.items())
    }
    task = TaskSpec("ham10000", tuple(classes), (8, 8))
    others = {name: found for name, found in splits.items() if name != "reprogrammed"}
    measured = measure(splits["reprogrammed"], others, task, Choices(num_resamples=20, calibration="none"))
    contents = {
        "schema_version": SCHEMA_VERSION,
        "task": task.name,
        "source": "resnet50",
        "seed": seed,
        **measured.record,
        "dimension": 1234,
        "label_map": [[name, f"source {name} {i}", 0.1 * i] for name in classes for i in range(5)],
        "data": {
            "licence": "CC BY 4.0",
            "citation": "Nobody, 2026",
            "private": False,
            "classes": list(classes),
            "sizes": {"train": 400, "val": 60, "test": len(test)},
            "groups": groups,
        },
        "protocol": blocks["protocol"],
        "paper": None,
        "queries": {"train": 900, "test": 60, "total": 960, "uncertain": 0, "budget": None, "cost": None},
        "timing": {"train_s": 60.0, "evaluate_s": 30.0, "total_s": 90.0},
        "source_fingerprint": "0" * 64,
        "environment": {
            "date": "2026-11-24T08:00:00+00:00",
            "python": "3.11.7",
            "packages": {"torch": "2.11.0"},
            "reprogram": "0.1.0",
            "commit": "a" * 40,
            "device": "2 CPU cores",
            "threads": 2,
            "command": "/home/somebody/bin/reprogram-train -m seed=0,1 data.path=/home/somebody/ham.npz",
        },
        **record,
    }
    (path / "metrics.json").write_text(json.dumps(contents))
    write_csv(path / "predictions.csv", list(splits["reprogrammed"].values()), classes)
    for name, found in others.items():
        write_csv(path / f"predictions_{name}.csv", list(found.values()), classes)
    for name, colour in (("program", 90), ("examples", 200)):
        Image.new("RGB", (64, 64), (colour, colour, 0)).save(path / f"{name}.png")
    return path
