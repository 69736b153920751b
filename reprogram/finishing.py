"""The end of a training run: chooses on validation, scores test once, writes the records."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger, WandbLogger

from reprogram import artefact, build, sourcing
from reprogram.accounting import recorded_queries
from reprogram.checks import is_black_box
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.evaluation.baselines import Baselines, FineTuning, Setting
from reprogram.evaluation.measure import Choices, measure
from reprogram.evaluation.predictions import Predictions, write_csv
from reprogram.evaluation.scoring import score
from reprogram.illustrations import illustrate, label_map
from reprogram.instantiation import call
from reprogram.records import RunDirectory, environment, finite
from reprogram.training.module import ReprogrammingModule
from reprogram.training.selection import refit_at_end, restore_best
from reprogram.types import TaskSpec


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a finished run gives back: its folder, the contents of ``metrics.json``, the classifier, the pictures."""

    run_dir: Path
    metrics: dict[str, Any]
    classifier: ReprogrammedClassifier
    pictures: list[Path]


def finish(
    cfg: build.Config,
    directory: RunDirectory,
    data: TaskData,
    primed: Examples,
    module: ReprogrammingModule,
    loggers: list[Logger],
    started: float,
) -> RunResult:
    """Ends a run that was trained.

    Args:
        cfg: Its configuration.
        directory: Gets the records.
        data: The target task.
        primed: Training images that mappings and baselines are fitted on.
        module: As training left it.
        loggers: Of the run.
        started: When it began, by ``time.monotonic``.
    """
    fitted = time.monotonic()
    queries = dict(module.queries)
    device = torch.device(sourcing.device_type(cfg["trainer"]["accelerator"]))
    source = sourcing.scoring_source(cfg, device.type, data.spec, module.classifier.source)
    module.classifier.source = source
    criterion, batch_size = build.criterion(cfg), cfg["data"]["batch_size"]
    classifier = module.classifier.to(device).eval()

    def validate() -> Predictions:
        queries["validation"] += len(data.splits["val"])
        return score(classifier, data.splits["val"], "val", batch_size, device)

    best = restore_best(module, directory.path / "checkpoints", criterion, validate)
    for purpose, count in refit_at_end(classifier, data, primed, batch_size, device, criterion).items():
        queries[purpose] += count
    test = score(classifier, data.splits["test"], "test", batch_size, device)  # the one time it is touched
    queries["test"] = len(data.splits["test"])
    raw = {"val": validate(), "test": test}
    choices, fine_tuning = judged_by(cfg, data.spec)
    untrained = build.classifier(cfg, source, data.spec, device.type).to(device).eval()
    local_source = partial(sourcing.local_source, cfg, device.type, data.spec)
    baselines = Baselines(Setting(untrained, data, primed, batch_size, device, local_source, fine_tuning))
    compared = baselines.compute_all(cfg["evaluation"]["baselines"])
    queries["baseline"] = baselines.queries

    found = measure(raw, compared, data.spec, choices)
    classifier.temperature, classifier.threshold = found.temperature, found.threshold
    artefact.save(classifier, cfg, directory.path)
    names = data.spec.class_names
    write_csv(directory.path / "predictions.csv", list(found.predictions.values()), names)
    for name, splits in found.baselines.items():
        write_csv(directory.path / f"predictions_{name}.csv", list(splits.values()), names)
    pictures = illustrate(classifier, data, found.predictions["test"], module.history, best, directory.path, device)
    evaluated = time.monotonic()
    record = {
        "task": data.spec.name,
        "source": source.spec.name,
        "access": "black_box" if is_black_box(cfg) else "white_box",
        "seed": cfg["seed"],
        **found.record,
        "left_out": [name for name in cfg["evaluation"]["baselines"] if name not in compared],
        "best_epoch": best["epoch"],
        "best_step": best["step"],
        "history": finite(module.history),
        "dimension": classifier.program.theta.numel(),
        "label_map": [list(row) for row in label_map(classifier)],
        "data": _facts(data),
        "protocol": cfg["protocol"],
        "paper": cfg["paper"],
        "queries": recorded_queries(queries, source, cfg["access"]),
        "timing": {"train_s": fitted - started, "evaluate_s": evaluated - fitted, "total_s": evaluated - started},
        "source_fingerprint": source.fingerprint,
        "environment": environment(device),
    }
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _record_in_wandb(logger, record, found.predictions["test"], classifier, pictures, directory.path)
    directory.write_metrics(record)
    return RunResult(directory.path, record, classifier, pictures)


def judged_by(cfg: build.Config, task: TaskSpec) -> tuple[Choices, FineTuning]:
    """What a run is judged by, beside the baselines that need no choices.

    Raises:
        ConfigError: If a value is wrong.
    """
    choice = cfg["evaluation"]
    block = {key: value for key, value in choice.items() if key not in ("baselines", "fine_tuning", "local_source")}
    choices: Choices = call({"_target_": f"{Choices.__module__}.Choices", **block}, "evaluation", seed=cfg["seed"])
    tuning: FineTuning = call(
        {"_target_": f"{FineTuning.__module__}.FineTuning", **choice["fine_tuning"]},
        "evaluation.fine_tuning",
        network=partial(sourcing.network, cfg, task),
        seed=cfg["seed"],
    )
    return choices, tuning


def _facts(data: TaskData) -> dict[str, Any]:
    """What a report must say about the data."""
    return {
        "licence": data.spec.licence,
        "citation": data.spec.citation,
        "private": data.spec.private,
        "classes": list(data.spec.class_names),
        "sizes": {split: len(examples) for split, examples in data.splits.items()},
        "groups": data.splits["test"].groups is not None,
    }


def _record_in_wandb(
    logger: WandbLogger,
    record: dict[str, Any],
    test: Predictions,
    classifier: ReprogrammedClassifier,
    pictures: list[Path],
    run_dir: Path,
) -> None:
    """Composed examples are target pixels: of private data they stay here."""
    from reprogram.training.wandb_logging import record_results

    private = classifier.task.private
    record_results(
        logger,
        record,
        (test.targets.tolist(), test.scores.argmax(axis=1).tolist(), list(classifier.class_names)),
        label_map(classifier),
        [path for path in pictures if not (private and path.stem == "examples")],
        run_dir / artefact.FOLDER,
    )
