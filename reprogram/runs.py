"""A training run from a config to its records: plain functions that return results, so that tests call them."""

import logging
import os
import re
import signal
import time
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

from reprogram import artefact, build
from reprogram.accounting import announce_plan, open_account, query_plan, recorded_queries
from reprogram.checks import check, check_monitor, is_black_box
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import BatchLoader
from reprogram.data.splits import limit
from reprogram.distributed import is_first_process
from reprogram.errors import QueryBudgetExceeded
from reprogram.evaluation.baselines import Baselines
from reprogram.evaluation.intervals import paired_difference, with_intervals
from reprogram.evaluation.predictions import Predictions, write_csv
from reprogram.evaluation.scoring import score
from reprogram.evaluation.threshold import operating_threshold
from reprogram.illustrations import illustrate, label_map
from reprogram.records import RunDirectory, environment, finite
from reprogram.sources.base import SourceModel
from reprogram.training.candidates import check_checkpoints
from reprogram.training.module import ReprogrammingModule
from reprogram.training.selection import refit_at_end, restore_best

log = logging.getLogger(__name__)

GAINS = ("accuracy", "balanced_accuracy")
RUN_DIR_VARIABLE = "REPROGRAM_RUN_DIR"  # tells the other processes of a run where the first one writes


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a finished run gives back: its folder, the contents of ``metrics.json``, the classifier, the pictures."""

    run_dir: Path
    metrics: dict[str, Any]
    classifier: ReprogrammedClassifier
    pictures: list[Path]


def train(cfg: DictConfig | dict[str, Any]) -> RunResult | None:
    """Trains, evaluates once on the test split, and writes the records.

    Args:
        cfg: As composed from ``configs/train.yaml``.

    Returns:
        The result; ``None`` on all processes but the first.

    Raises:
        ReprogramError: For everything that the user can put right, before any training where possible.
    """
    started = time.monotonic()
    cfg = _resumed(build.plain(cfg))
    check(cfg)
    if is_black_box(cfg) and cfg["access"]["ledger"] is not None:  # the same from wherever the run is continued
        cfg["access"] = {**cfg["access"], "ledger": str(Path(cfg["access"]["ledger"]).expanduser().absolute())}
    Baselines.check(cfg["evaluation"]["baselines"])
    pl.seed_everything(cfg["seed"], workers=True, verbose=False)
    data = build.task_data(cfg)
    source = build.source(cfg, build.device_type(cfg["trainer"]["accelerator"]))
    check_monitor(cfg["callbacks"]["monitor"], data.spec)
    cfg["run_dir"] = _run_dir(cfg, data.spec.name, source.spec.name)
    directory = RunDirectory(Path(cfg["run_dir"]))
    checkpoint = directory.check(cfg)
    if checkpoint is not None:
        check_checkpoints(checkpoint)

    account = build.ledger(cfg, directory.path) if is_black_box(cfg) else None
    classifier = build.classifier(cfg, build.accessed(cfg, source, account), data.spec)
    estimator = build.estimator(cfg, classifier.program)
    plan = query_plan(cfg, data, estimator.queries_per_example, classifier.mapping.schedule)
    if plan is not None and not _is_child():
        announce_plan(plan, cfg["access"], source)
        if cfg["access"]["dry_run"]:
            return None
    train_split = data.splits["train"]
    primed = train_split if plan is None else limit(train_split, plan.prime, cfg["seed"])
    counts = torch.bincount(train_split.targets, minlength=data.spec.num_classes)
    steps = build.total_steps(cfg["trainer"], -(-len(train_split) // cfg["data"]["batch_size"]))
    module = build.module(cfg, classifier, estimator, counts, steps if plan is None else plan.steps)
    trainer = build.trainer(
        cfg,
        plan,
        build.callbacks(cfg, data, primed, plan, account, directory.path),
        build.loggers(cfg, directory.path, cfg),
        directory.path,
    )
    if not _is_child():
        directory.lock()
    try:
        if not _is_child():
            if account is not None and plan is not None:
                open_account(account, plan, continued=directory.config_file.is_file())
            directory.claim(cfg)
            os.environ[RUN_DIR_VARIABLE] = str(directory.path)
            _announce(directory, data, source, checkpoint)
        _fit(trainer, module, cfg, data, checkpoint)
        if dist.is_initialized():  # the rest is the first process's alone
            first = is_first_process()
            dist.destroy_process_group()
            if not first:
                return None
        return _finish(cfg, directory, data, primed, module, trainer.loggers, started)
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)
        if account is not None and not _is_child():
            account.release()
        directory.unlock()
        if cfg["logger"]["wandb"] is not None:
            import wandb

            wandb.finish()  # a run left open would take in the next one


def _finish(
    cfg: build.Config,
    directory: RunDirectory,
    data: TaskData,
    primed: Examples,
    module: ReprogrammingModule,
    loggers: list[Logger],
    started: float,
) -> RunResult:
    """Chooses on validation, scores test once, writes the records."""
    fitted = time.monotonic()
    queries, source = dict(module.queries), module.classifier.source
    device = torch.device(build.device_type(cfg["trainer"]["accelerator"]))
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
    predictions = {"val": validate(), "test": test}
    classifier.threshold = operating_threshold(predictions["val"])
    untrained = build.classifier(cfg, source, data.spec).to(device).eval()
    baselines = Baselines(untrained, data, primed, batch_size, device)
    compared = baselines.compute_all(cfg["evaluation"]["baselines"])
    queries["baseline"] = baselines.queries

    artefact.save(classifier, cfg, directory.path)
    write_csv(directory.path / "predictions.csv", list(predictions.values()), data.spec.class_names)
    for name, splits in compared.items():
        write_csv(directory.path / f"predictions_{name}.csv", list(splits.values()), data.spec.class_names)
    pictures = illustrate(classifier, data, predictions["test"], module.history, best, directory.path, device)
    evaluated = time.monotonic()
    record = {
        "task": data.spec.name,
        "source": source.spec.name,
        "seed": cfg["seed"],
        **{split: _intervals(predictions[split], cfg, data) for split in ("val", "test")},
        "baselines": {
            name: {split: _intervals(found, cfg, data) for split, found in splits.items()}
            for name, splits in compared.items()
        },
        "over_mapping_only": _gain(predictions["test"], compared.get("mapping_only"), cfg),
        "groups": {},
        "threshold": classifier.threshold,
        "test_at_threshold": None
        if classifier.threshold is None
        else _intervals(predictions["test"], cfg, data, classifier.threshold),
        "best_epoch": best["epoch"],
        "best_step": best["step"],
        "history": finite(module.history),
        "dimension": classifier.program.theta.numel(),
        "queries": recorded_queries(queries, source, cfg["access"]),
        "timing": {"train_s": fitted - started, "evaluate_s": evaluated - fitted, "total_s": evaluated - started},
        "source_fingerprint": source.fingerprint,
        "environment": environment(device),
    }
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _record_in_wandb(logger, record, predictions["test"], classifier, pictures, directory.path)
    directory.write_metrics(record)
    return RunResult(directory.path, record, classifier, pictures)


def _resumed(cfg: build.Config) -> build.Config:
    """The configuration to run: with ``resume``, the one that run was started with."""
    resume = cfg.get("resume")
    if resume is None:
        return cfg
    return {**RunDirectory(Path(resume)).read_config(), "resume": str(resume), "run_dir": str(resume)}


def _run_dir(cfg: build.Config, task: str, source: str) -> str:
    """The folder for the records: as chosen, as the first process chose it, or named after task and source."""
    named = "_".join(re.sub(r"[^\w.-]+", "-", name) for name in (task, source))
    fallback = f"runs/{named}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return str(cfg["run_dir"] or os.environ.get(RUN_DIR_VARIABLE) or fallback)


def _is_child() -> bool:
    """Whether another process of this run speaks and writes."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _announce(directory: RunDirectory, data: TaskData, source: SourceModel, checkpoint: Path | None) -> None:
    sizes = ", ".join(f"{len(examples)} {split}" for split, examples in data.splits.items())
    log.info("task     %s: %d classes, %s", data.spec.name, data.spec.num_classes, sizes)
    log.info("source   %s: %d classes, %dx%d", source.spec.name, source.spec.num_classes, *source.spec.image_size)
    if getattr(source, "preparation", None) is not None:
        log.info("         %s", source.preparation)
    log.info("records  %s%s", directory.path, f" (continuing from {checkpoint.name})" if checkpoint else "")


def _fit(
    trainer: pl.Trainer, module: ReprogrammingModule, cfg: build.Config, data: TaskData, checkpoint: Path | None
) -> None:
    """Trains to the end, or from a checkpoint to the end."""
    batch_size, seed = cfg["data"]["batch_size"], cfg["seed"]

    def loader(split: str, shuffle: bool) -> BatchLoader:
        return BatchLoader(data.splits[split], batch_size, shuffle, seed, trainer.global_rank, trainer.world_size)

    with warnings.catch_warnings():
        # Lightning's advice on worker processes is for data sets on disk, ours are tensors in memory
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # a run directory that is continued, and a source in evaluation mode, are what we want
        warnings.filterwarnings("ignore", ".*(Checkpoint|Experiment logs) directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # what we log is the same on every process
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", ".*could not find the monitored key.*")  # an epoch without a validation
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # Lightning 2.6 on torch 2.11
        try:
            trainer.fit(module, loader("train", True), loader("val", False), ckpt_path=checkpoint, weights_only=True)
        except QueryBudgetExceeded as error:  # a continued run may lack what a crash has cost
            if trainer.world_size > 1:
                raise
            log.warning("budget   %s; the best program so far is kept", error)
        except SystemExit as error:  # Lightning's answer to Ctrl-C, after it has saved a checkpoint
            if trainer.interrupted:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from error
            raise


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


def _intervals(
    predictions: Predictions, cfg: build.Config, data: TaskData, threshold: float | None = None
) -> dict[str, Any]:
    resamples, seed = cfg["evaluation"]["num_resamples"], cfg["seed"]
    return with_intervals(predictions, data.spec.ordinal, num_resamples=resamples, seed=seed, threshold=threshold)


def _gain(test: Predictions, baseline: dict[str, Predictions] | None, cfg: build.Config) -> dict[str, Any] | None:
    """What the program added to the mapping alone, on the test split."""
    if baseline is None:
        return None
    resamples, seed = cfg["evaluation"]["num_resamples"], cfg["seed"]
    return {name: paired_difference(test, baseline["test"], name, resamples, seed) for name in GAINS}
