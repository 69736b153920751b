"""Composes our objects from a config: the only module that knows both Hydra's config and our classes.

Facts (sizes, class counts) come from the source and the task; the config holds choices.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reprogram import launched, sourcing
from reprogram.checks import is_black_box
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, Table, TaskData
from reprogram.data.pool import Pool, load_pool
from reprogram.data.protocols import Protocol, Selection
from reprogram.data.task import load_task
from reprogram.errors import ConfigError
from reprogram.estimators.base import GradientEstimator
from reprogram.instantiation import bind, call, locate, without
from reprogram.programs.base import InputProgram
from reprogram.sources.account_server import SCHEME
from reprogram.sources.base import SourceModel
from reprogram.sources.ledger import Ledger, ledger_of
from reprogram.training.query_plan import QueryPlan
from reprogram.training.smoothing_check import check_smoothing
from reprogram.types import SourceSpec, TaskSpec

if TYPE_CHECKING:  # what is trained needs Lightning, which takes seconds to import; what is served or reported does not
    import pytorch_lightning as pl

    from reprogram.training.module import ReprogrammingModule
    from reprogram.training.selection import Criterion

DATA_KEYS = ("batch_size", "augmentation")  # of the loaders, not of the data set
SELECTION_KEYS = ("shots", "train_fraction", "max_train", "max_val", "max_test", "duplicates")
PROTOCOL_KEYS = (*SELECTION_KEYS, "labels")  # not of the protocol itself
ACCESS_KEYS = (  # of the run, not of the black box
    *("query_budget", "ledger", "price_per_1000", "queries_per_second", "prime", "validations", "spare", "dry_run"),
)
CLASSIFIER_BLOCKS = ("source", "access", "program", "mapping")

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
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason}; set it, or choose another {error.full_key}") from error
    return resolved


def task_data(cfg: Config) -> TaskData:
    """The target task, loaded, split and checked."""
    who, selection = _protocol(cfg)
    return load_task(table(cfg), who, selection, cfg["protocol"].get("labels"))  # older runs have no such key


def pool(cfg: Config) -> Pool:
    """All training rows of the target task, labelled or not, as ``task_data`` chooses among them."""
    return load_pool(table(cfg), *_protocol(cfg))


def _protocol(cfg: Config) -> tuple[Protocol, Selection]:
    """Who is trained on and tested, and how much of it is used."""
    choice = cfg.get("protocol")
    if choice is None:
        raise ConfigError("protocol: this configuration is from before data were split by a protocol; train again")
    who = call(without(choice, PROTOCOL_KEYS), "protocol")
    amount = {key: choice[key] for key in (*SELECTION_KEYS, "seed")}
    return who, call({"_target_": "reprogram.data.protocols.Selection", **amount}, "protocol")


def table(cfg: Config) -> Table:
    """The rows of the target task, before they are split."""
    found: Table = call(without(cfg["data"], DATA_KEYS), "data").table()
    return found


def ledger(cfg: Config, run_dir: Path) -> Ledger:
    """The account of a run: its own, or the one its neighbours share.

    Raises:
        ConfigError: If processes of several machines are to share a file.
    """
    shared = cfg["access"]["ledger"]
    machines = cfg["trainer"]["num_nodes"] if "trainer" in cfg else 1
    if machines > 1 and not (shared or "").startswith(SCHEME):
        raise ConfigError(
            f"access.ledger: expected {SCHEME}user@host/database, since {machines} machines cannot share a "
            f"SQLite file, got {shared or 'none'}; or set trainer.num_nodes=1"
        )
    return ledger_of(run_dir, shared, cfg["access"]["query_budget"])


def accessed(cfg: Config, model: SourceModel, account: Ledger | None) -> SourceModel:
    """The source as far as it may be seen: behind a black box, if there is an account of it.

    Raises:
        ConfigError: If a source without a gradient is to be seen through.
    """
    if account is None:
        if not model.spec.differentiable:
            raise ConfigError(
                f"access: expected black_box, since {model.spec.name} gives scores but no gradient, got white_box; "
                "set recipe=black_box"
            )
        return model
    block = without(cfg["access"], ACCESS_KEYS)
    priced = cfg["access"]["price_per_1000"] is not None
    hidden: SourceModel = call(block, "access", source=model, ledger=account, priced=priced)
    return hidden


def classifier(cfg: Config, model: SourceModel, task: TaskSpec, device_type: str) -> ReprogrammedClassifier:
    """Program and mapping around a source, as they are before training."""
    facts: SourceSpec = model.spec
    block = cfg["program"]
    if isinstance(block.get("encoder"), Mapping):
        block = {**block, "encoder": sourcing.beside(block["encoder"], "program.encoder", task, device_type)}
    program = call(block, "program", canvas=facts.image_size, support=task.support, seed=cfg["seed"])
    mapping = call(
        cfg["mapping"],
        "mapping",
        source_classes=facts.num_classes,
        target_classes=task.num_classes,
        seed=cfg["seed"],
    )
    return ReprogrammedClassifier(program, model, mapping, task)


def self_contained(cfg: Config, model: SourceSpec, task: TaskSpec) -> Config:
    """Replaces what program and mapping take from files, or from other models, by its contents.

    A run that is continued, and a result that is passed on, need these no more.
    """
    for key in ("program", "mapping"):
        fill_in = getattr(locate(cfg[key], key), "self_contained", None)
        if fill_in is not None:
            bind(cfg[key], key)  # refuses values of another type
            cfg = {**cfg, key: fill_in(cfg[key], model, task)}
    return cfg


def estimator(cfg: Config, program: InputProgram) -> GradientEstimator:
    """The gradient estimator for a program.

    Raises:
        ConfigError: If it makes its own steps and the trainer would change them, or if what it asks about does not
            survive the encoding of the images.
    """
    made: GradientEstimator = call(cfg["estimator"], "estimator", dimension=program.theta.numel())
    if made.owns_update:
        if _is_penalised(cfg):
            raise ConfigError("regularizer: expected none with this estimator, which makes its own steps")
        for key, plain_value in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
            if cfg["trainer"][key] != plain_value:
                raise ConfigError(
                    f"trainer.{key}: expected {plain_value} with this estimator, which makes its own steps, got "
                    f"{cfg['trainer'][key]}"
                )
    if is_black_box(cfg):
        check_smoothing(program, made, cfg["access"]["encoding"])
    return made


def module(
    cfg: Config,
    model: ReprogrammedClassifier,
    gradient_estimator: GradientEstimator,
    class_counts: torch.Tensor,
    steps: int | None,
) -> "ReprogrammingModule":
    """The Lightning module around a classifier and an estimator, for so many optimiser steps.

    Raises:
        ConfigError: If nothing bounds the training, or a value is wrong.
    """
    from reprogram.training.module import ReprogrammingModule

    if steps is None:
        raise ConfigError("trainer.max_epochs: expected a whole number >= 1, or set trainer.max_steps")
    optimizer = dict(cfg["optimizer"])
    mapping_lr = optimizer.pop("mapping_lr", None)
    make_optimizer = bind(optimizer, "optimizer")
    augmentation = cfg["data"]["augmentation"]
    scheduler = bind(cfg["scheduler"], "scheduler") if cfg["scheduler"].get("_target_") else None
    tried = make_optimizer([{"params": [torch.zeros(1, requires_grad=True)]}])
    if scheduler is not None:  # wrong values of both are refused before training
        scheduler(tried, steps)
    if gradient_estimator.owns_update:
        make_optimizer, scheduler = partial(torch.optim.SGD, lr=1.0), None
    return ReprogrammingModule(
        model,
        loss=call(cfg["loss"], "loss", class_counts=class_counts),
        estimator=gradient_estimator,
        optimizer=make_optimizer,
        scheduler=scheduler,
        total_steps=steps,
        seed=cfg["seed"],
        mapping_lr=mapping_lr,
        augmentation=call(augmentation, "data.augmentation") if augmentation else None,
        regularizer=call(cfg["regularizer"], "regularizer") if _is_penalised(cfg) else None,
    )


def criterion(cfg: Config) -> "Criterion":
    """What a program is chosen by."""
    from reprogram.training.selection import Criterion

    choice = cfg["callbacks"]
    return Criterion(choice["monitor"], choice["mode"], choice["confidence"])


def callbacks(
    cfg: Config,
    data: TaskData,
    primed: Examples,
    plan: QueryPlan | None,
    account: Ledger | None,
    run_dir: Path,
) -> "list[pl.Callback]":
    """Mapping refits, the candidate without a program, checkpoints, early stopping."""
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    from reprogram.training.budget_stop import BudgetStop
    from reprogram.training.candidates import Candidates
    from reprogram.training.mapping_refresh import MappingRefresh
    from reprogram.training.preemptible import Preemptible
    from reprogram.training.reporting import reporting
    from reprogram.training.step_checkpoint import StepCheckpoint

    choice, folder = cfg["callbacks"], run_dir / "checkpoints"
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    refresh = MappingRefresh(primed, cfg["data"]["batch_size"], plan is None or plan.refits)
    found: list[pl.Callback] = [
        *reporting(choice["monitor"]),
        Preemptible(),
        refresh,
        Candidates(refresh, data.splits["val"], cfg["data"]["batch_size"], folder, choice["monitor"]),
        ModelCheckpoint(filename="best", monitor=choice["monitor"], mode=choice["mode"], **common),
        StepCheckpoint(
            folder / "last.ckpt",
            choice["checkpoint_every"] if plan is None else min(choice["checkpoint_every"], max(1, plan.steps // 50)),
            on_exception=launched.processes(cfg["trainer"]) == 1,  # several processes may be at different steps
        ),
    ]
    if plan is None or plan.interval is None:  # an epoch that ends without a validation cannot be continued from
        found.append(ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common))
    if plan is not None and account is not None:
        found.append(BudgetStop(account, plan.sizes, plan.spare))
    if choice["patience"] is not None:
        patience = {name: choice[name] for name in ("monitor", "mode", "min_delta", "patience")}
        found.append(EarlyStopping(**patience, check_on_train_epoch_end=False))  # an epoch may end without a validation
    return found


def _is_penalised(cfg: Config) -> bool:
    return cfg["regularizer"].get("_target_") is not None
