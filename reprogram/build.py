"""Composes our objects from a config: the only module that knows both Hydra's config and our classes.

Facts (sizes, class counts) come from the source and the task; the config holds choices.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.loggers import CSVLogger, Logger

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import TaskData
from reprogram.errors import ConfigError
from reprogram.instantiation import bind, call
from reprogram.sources.base import SourceModel
from reprogram.sources.prepared import PreparedSource
from reprogram.training.mapping_refresh import MappingRefresh
from reprogram.training.module import ReprogrammingModule
from reprogram.types import SourceSpec, TaskSpec

DATA_KEYS = ("batch_size", "augmentation")  # of the loaders, not of the data set
SOURCE_KEYS = ("prepare", "precision")  # of the fast path, not of the source
CLASSIFIER_BLOCKS = ("source", "program", "mapping")

Config = dict[str, Any]


def plain(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Resolves a config to plain dictionaries, so that nothing below sees a config object.

    Raises:
        ConfigError: If an interpolation (an unset environment variable, say) cannot be resolved.
    """
    if not isinstance(cfg, DictConfig):
        return dict(cfg)
    try:
        resolved: Config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    return resolved


def check(cfg: Config) -> None:
    """Refuses wrong numbers that no constructor sees before training.

    Raises:
        ConfigError: Naming the key.
    """
    groups = ("source", "program", "mapping", "estimator", "loss", "optimizer", "scheduler", "data", "trainer")
    for group in (*groups, "evaluation", "callbacks", "logger"):
        if not isinstance(cfg[group], dict):
            raise ConfigError(f"{group}: expected a choice such as {group}=NAME, got {cfg[group]!r}")
    bind(cfg["trainer"], "trainer")  # types
    if cfg["trainer"]["precision"] not in ("32-true", "32", 32):
        raise ConfigError("trainer.precision: expected 32-true; the source has its own, source.precision")
    if isinstance(cfg["seed"], int) and cfg["seed"] >= 2**32:
        raise ConfigError(f"seed: expected a whole number below 2^32, got {cfg['seed']}")
    least = {("seed",): 0, ("data", "batch_size"): 1, ("evaluation", "num_resamples"): 1}
    least |= {("callbacks", "checkpoint_every"): 1, ("trainer", "accumulate_grad_batches"): 1}
    if cfg["callbacks"]["patience"] is not None:
        least |= {("callbacks", "patience"): 1}
    for path, minimum in least.items():
        value: Any = cfg
        for key in path:
            value = value[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ConfigError(f"{'.'.join(path)}: expected a whole number >= {minimum}, got {value!r}")
    baselines = cfg["evaluation"]["baselines"]
    if not isinstance(baselines, list) or not all(isinstance(name, str) for name in baselines):
        raise ConfigError(f"evaluation.baselines: expected a list of names, got {baselines!r}")
    if not isinstance(cfg["callbacks"]["monitor"], str):
        raise ConfigError(
            f"callbacks.monitor: expected a name such as val/accuracy, got {cfg['callbacks']['monitor']!r}"
        )
    augmentation = cfg["data"]["augmentation"]
    if augmentation is not None and not isinstance(augmentation, dict):
        raise ConfigError(f"data.augmentation: expected null or a block with _target_, got {augmentation!r}")
    if cfg["callbacks"]["mode"] not in ("min", "max"):
        raise ConfigError(f"callbacks.mode: expected min or max, got {cfg['callbacks']['mode']!r}")


def task_data(cfg: Config) -> TaskData:
    """The target task, loaded and checked."""
    block = {key: value for key, value in cfg["data"].items() if key not in DATA_KEYS}
    data: TaskData = call(block, "data").load()
    return data


def source(cfg: Config, device_type: str) -> SourceModel:
    """The frozen source model, prepared for its device unless ``source.prepare=false``."""
    block = {key: value for key, value in cfg["source"].items() if key not in SOURCE_KEYS}
    model: SourceModel = call(block, "source")
    if not cfg["source"]["prepare"]:
        return model
    choice = {"_target_": "reprogram.sources.prepared.PreparedSource", "precision": cfg["source"]["precision"]}
    prepared: PreparedSource = call(choice, "source", source=model, device_type=device_type)
    return prepared


def classifier(cfg: Config, model: SourceModel, task: TaskSpec) -> ReprogrammedClassifier:
    """Program and mapping around a source, as they are before training."""
    facts: SourceSpec = model.spec
    program = call(cfg["program"], "program", canvas=facts.image_size, support=task.support)
    mapping = call(
        cfg["mapping"],
        "mapping",
        source_classes=facts.num_classes,
        target_classes=task.num_classes,
        seed=cfg["seed"],
    )
    return ReprogrammedClassifier(program, model, mapping, task)


def module(cfg: Config, model: ReprogrammedClassifier, class_counts: torch.Tensor) -> ReprogrammingModule:
    """The Lightning module around a classifier."""
    optimizer = dict(cfg["optimizer"])
    mapping_lr = optimizer.pop("mapping_lr", None)
    if mapping_lr is not None and not (isinstance(mapping_lr, int | float) and mapping_lr >= 0):
        raise ConfigError(f"optimizer.mapping_lr: expected a number >= 0 or null, got {mapping_lr!r}")
    make_optimizer = bind(optimizer, "optimizer")
    make_optimizer([{"params": [torch.zeros(1, requires_grad=True)]}])  # wrong values are refused before training
    augmentation = cfg["data"]["augmentation"]
    scheduler = cfg["scheduler"]
    return ReprogrammingModule(
        model,
        loss=call(cfg["loss"], "loss", class_counts=class_counts),
        estimator=call(cfg["estimator"], "estimator"),
        optimizer=make_optimizer,
        scheduler=bind(scheduler, "scheduler") if scheduler.get("_target_") else None,
        total_steps=total_steps(cfg["trainer"], -(-int(class_counts.sum()) // cfg["data"]["batch_size"])),
        mapping_lr=mapping_lr,
        augmentation=call(augmentation, "data.augmentation") if augmentation else None,
    )


def total_steps(trainer: Config, batches: int) -> int:
    """Optimiser steps of the whole training, for the learning-rate schedule.

    Raises:
        ConfigError: If neither epochs nor steps bound the training.
    """
    limit = trainer["limit_train_batches"]
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs, steps = trainer["max_epochs"], trainer["max_steps"]
    bounds = [steps] if isinstance(steps, int) and steps > 0 else []
    if isinstance(epochs, int) and epochs > 0:
        bounds.append(epochs * -(-batches // trainer["accumulate_grad_batches"]))
    if not bounds:
        raise ConfigError(f"trainer.max_epochs: expected a whole number >= 1, got {epochs!r}; or set trainer.max_steps")
    return max(1, min(bounds))


def callbacks(cfg: Config, data: TaskData, run_dir: Path) -> list[pl.Callback]:
    """Mapping refits, checkpoints, early stopping, progress bar."""
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    choice, folder = cfg["callbacks"], run_dir / "checkpoints"
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    found: list[pl.Callback] = [
        MappingRefresh(data.splits["train"], cfg["data"]["batch_size"]),
        ModelCheckpoint(filename="best", monitor=choice["monitor"], mode=choice["mode"], **common),
        ModelCheckpoint(filename="last", every_n_train_steps=choice["checkpoint_every"], **common),
        ModelCheckpoint(
            filename="last",
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            **common,
            save_on_exception=cfg["trainer"]["devices"] == 1,  # several processes may be at different steps
        ),
    ]
    if choice["patience"] is not None:
        found.append(EarlyStopping(choice["monitor"], mode=choice["mode"], patience=choice["patience"]))
    return found


def loggers(cfg: Config, run_dir: Path, summary: Config) -> list[Logger]:
    """CSV and Weights & Biases, as configured."""
    found: list[Logger] = []
    if cfg["logger"]["csv"]:
        found.append(CSVLogger(run_dir, name="", version=""))
    if cfg["logger"]["wandb"] is not None:
        from reprogram.training.wandb_logging import wandb_logger

        found.append(wandb_logger(cfg["logger"]["wandb"], run_dir, summary))
    return found


def trainer(cfg: Config, found_callbacks: list[pl.Callback], found_loggers: list[Logger], run_dir: Path) -> pl.Trainer:
    """The Lightning trainer: no sanity validation and no padding sampler, because both would cost queries."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its remarks on absent TPUs help nobody
    try:
        made: pl.Trainer = call(
            cfg["trainer"],
            "trainer",
            callbacks=found_callbacks,
            logger=found_loggers,
            default_root_dir=run_dir,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {error}") from error
    return made


def device_type(accelerator: str) -> str:
    """``cuda`` or ``cpu`` for a Lightning accelerator name."""
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError("trainer: expected a GPU, found none that PyTorch can use; choose trainer=cpu")
    return "cuda" if on_gpu else "cpu"
