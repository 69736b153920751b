"""A training run from a config to its records: plain functions that return results, so that tests call them."""

import logging
import os
import re
import signal
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from omegaconf import DictConfig

from reprogram import artefact, build, launched, preemption, sourcing, trainers
from reprogram.accounting import NOTHING, Paid, announce_plan, open_account, query_plan
from reprogram.checks import check, check_monitor, check_scores, is_black_box
from reprogram.data.base import TaskData
from reprogram.data.loader import BatchLoader
from reprogram.data.splits import limit
from reprogram.discovery import discovered, is_open, with_found_classes
from reprogram.errors import ConfigError, QueryBudgetExceeded
from reprogram.evaluation.baselines import Baselines
from reprogram.finishing import RunResult, finish, judged_by
from reprogram.preemption import Preempted
from reprogram.records import DISK, RUN_DIR_VARIABLE, RunDirectory, unwritable
from reprogram.sources.account_server import SCHEME
from reprogram.sources.base import SourceModel
from reprogram.sources.features import final_layer
from reprogram.sources.remote import RemoteSource
from reprogram.training.candidates import check_checkpoints
from reprogram.training.length import total_steps
from reprogram.training.module import ReprogrammingModule

log = logging.getLogger(__name__)


def train(cfg: DictConfig | dict[str, Any], just_asked: bool = False, paid: Paid = NOTHING) -> RunResult | None:
    """Trains, evaluates once on the test split, and writes the records.

    Args:
        cfg: As composed from ``configs/train.yaml``.
        just_asked: Whether the source was asked a moment ago, so that it has not drifted from what it answered.
        paid: What of the query budget others have spent before.

    Returns:
        The result; ``None`` on all processes but the first.

    Raises:
        ReprogramError: For everything that the user can put right, before any training where possible.
    """
    started = time.monotonic()
    cfg = _resumed(build.plain(cfg))
    check(cfg)
    cfg["trainer"] = launched.as_launched(cfg["trainer"])
    first = launched.processes(cfg["trainer"]) == 1 or launched.is_first()
    cfg = with_found_classes(cfg)
    shared = cfg["access"].get("ledger")
    if shared is not None and not shared.startswith(SCHEME):  # the same file from wherever the run is continued
        cfg["access"] = {**cfg["access"], "ledger": _absolute(shared)}
    if cfg.get("start_from") is not None:  # likewise
        cfg["start_from"] = _absolute(cfg["start_from"])
    if cfg["protocol"].get("labels") is not None:  # likewise
        cfg["protocol"] = {**cfg["protocol"], "labels": _absolute(cfg["protocol"]["labels"])}
    asked = Baselines.chosen(cfg["evaluation"]["baselines"], is_black_box(cfg))
    cfg["evaluation"] = {**cfg["evaluation"], "baselines": asked}
    pl.seed_everything(cfg["seed"], workers=True, verbose=False)
    data = build.task_data(cfg)
    device_type = sourcing.device_type(cfg["trainer"]["accelerator"])
    source = sourcing.training_source(cfg, device_type, data.spec)
    if isinstance(source, RemoteSource) and (just_asked or not first):
        source.drift_check = 0
    if "local_probe" in asked:  # a wrong one is refused now, not when all queries are spent
        final_layer(sourcing.local_source(cfg, "cpu", data.spec))
    check_monitor(cfg["callbacks"]["monitor"], data.spec)
    judged_by(cfg, data.spec)
    cfg = build.self_contained(cfg, source.spec, data.spec)
    cfg["run_dir"] = _run_dir(cfg, data.spec.name, source.spec.name)
    directory = RunDirectory(Path(cfg["run_dir"]))
    checkpoint = directory.check(cfg)
    if checkpoint is not None:
        check_checkpoints(checkpoint)

    account = build.ledger(cfg, directory.path) if is_black_box(cfg) else None
    classifier = build.classifier(cfg, build.accessed(cfg, source, account), data.spec, device_type)
    if checkpoint is None and cfg.get("start_from") is not None:
        artefact.start(classifier, cfg, cfg["start_from"])
    estimator = build.estimator(cfg, classifier.program)
    check_scores(source.spec, estimator.needs_scores)
    remote = isinstance(source, RemoteSource)
    plan = query_plan(cfg, data.splits, estimator.queries_per_example, classifier.mapping.schedule, remote, paid)
    train_split = data.splits["train"]
    primed = train_split if plan is None else limit(train_split, plan.prime, cfg["seed"])
    if plan is not None:
        if first:
            announce_plan(plan, cfg["access"], source)
        if cfg["access"]["dry_run"]:
            return None
        if first and account is not None and is_open(cfg, source):
            return train(discovered(cfg, directory, account, classifier, primed, plan), just_asked=True)
    counts = torch.bincount(train_split.targets, train_split.trust, minlength=data.spec.num_classes)
    steps = total_steps(cfg["trainer"], -(-len(train_split) // cfg["data"]["batch_size"]))
    module = build.module(cfg, classifier, estimator, counts, steps if plan is None else plan.steps)
    trainer = trainers.trainer(
        cfg,
        plan,
        build.callbacks(cfg, data, primed, plan, account, directory.path),
        trainers.loggers(cfg, directory.path),
        directory.path,
    )
    if first:
        directory.lock()
    try:
        if first:
            if account is not None and plan is not None:
                open_account(account, plan, directory.config_file.is_file(), paid)
            directory.claim(cfg)
            os.environ[RUN_DIR_VARIABLE] = str(directory.path)
            _announce(directory, data, source, checkpoint)
        _fit(trainer, module, cfg, data, checkpoint)
        if dist.is_initialized():  # the rest is the first process's alone
            trainer.strategy.barrier()  # the first one holds what the others meet at
            dist.destroy_process_group()
            if not first:
                return None
        return finish(cfg, directory, data, primed, module, trainer.loggers, started)
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise unwritable(directory.path, error) from error
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)
        if account is not None and first:
            account.release()
        directory.unlock()
        if cfg["logger"]["wandb"] is not None:
            import wandb

            wandb.finish()  # a run left open would take in the next one


def _resumed(cfg: build.Config) -> build.Config:
    """The configuration to run: with ``resume``, the one that run was started with."""
    resume = cfg.get("resume")
    if resume is None:
        return cfg
    return {**RunDirectory(Path(resume)).read_config(), "resume": str(resume), "run_dir": str(resume)}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _run_dir(cfg: build.Config, task: str, source: str) -> str:
    """The folder for the records: as chosen, as the first process chose it, or named after task and source.

    Raises:
        ConfigError: If the processes cannot agree on one.
    """
    chosen = cfg["run_dir"] or os.environ.get(RUN_DIR_VARIABLE)
    if not chosen and launched.from_outside() and launched.processes(cfg["trainer"]) > 1:
        raise ConfigError("run_dir: is required when torchrun or srun starts the processes; set run_dir=...")
    named = "_".join(re.sub(r"[^\w.-]+", "-", name) for name in (task, source))
    fallback = f"runs/{named}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return str(chosen or fallback)


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
        rank, processes, device = trainer.global_rank, trainer.world_size, trainer.strategy.root_device
        return BatchLoader(data.splits[split], batch_size, shuffle, seed, rank, processes, device)

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
            preemption.now()  # the step has ended, though not in its way
        except Preempted:
            raise
        except SystemExit as error:  # Lightning's answer to Ctrl-C, after it has saved a checkpoint
            if trainer.interrupted:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from error
            raise
