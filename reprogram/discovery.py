"""The class list of an API that reports labels but does not say which there are."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from reprogram import launched
from reprogram.accounting import open_account
from reprogram.checks import is_black_box
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader
from reprogram.errors import ConfigError
from reprogram.records import RUN_DIR_VARIABLE, RunDirectory
from reprogram.sources.http.answers import OTHER
from reprogram.sources.ledger import Ledger
from reprogram.sources.remote import RemoteSource
from reprogram.training.mapping_refresh import observe_once
from reprogram.training.query_plan import QueryPlan

log = logging.getLogger(__name__)


def is_open(cfg: dict[str, Any], source: object) -> bool:
    """Whether the source's classes are still to be found out."""
    return is_black_box(cfg) and isinstance(source, RemoteSource) and source.has_open_classes


def with_found_classes(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the classes that an earlier process of the same run found, if there was one."""
    run_dir = cfg["run_dir"] or os.environ.get(RUN_DIR_VARIABLE)
    if "classes" not in cfg["source"] or cfg["source"]["classes"] is not None or run_dir is None:
        return cfg
    directory = RunDirectory(Path(run_dir))
    found = directory.read_config()["source"].get("classes") if directory.config_file.is_file() else None
    return {**cfg, "source": {**cfg["source"], "classes": found}}


def discovered(
    cfg: dict[str, Any],
    directory: RunDirectory,
    account: Ledger,
    classifier: ReprogrammedClassifier,
    primed: Examples,
    plan: QueryPlan,
) -> dict[str, Any]:
    """Asks about the training images that the mapping is fitted on; the labels in the answers become the classes.

    The answers are stored: the fit asks for them again at no cost.

    Raises:
        ConfigError: If answers are not stored, or not needed for the mapping, so that they would be paid for in vain;
            or if there are fewer labels than ``access.top_k`` asks for, which is known only now.
        QueryBudgetExceeded: If the budget does not allow it.
    """
    if not classifier.mapping.schedule.at_start:
        raise ConfigError("source.classes: the API does not say, and this mapping asks about no images; give a list")
    if cfg["access"]["store"] == "off":
        raise ConfigError("source.classes: the API does not say, and access.store=off keeps no answers; give a list")
    if launched.from_outside():
        raise ConfigError(
            "source.classes: the API does not say, and torchrun or srun started all processes; give a list"
        )
    source = classifier.source.source
    assert isinstance(source, RemoteSource)
    directory.lock()
    try:
        open_account(account, plan)  # all but the training is reserved first
        loader = BatchLoader(primed, cfg["data"]["batch_size"], shuffle=False, seed=0)
        observe_once(classifier, classifier.mapping, loader, torch.device("cpu"))
    finally:
        account.release()
        directory.unlock()
    names = sorted(source.labels)
    log.info("classes  %d labels in the answers to %d images: %s", len(names), len(primed), ", ".join(names[:8]))
    most, top_k = len({*names, OTHER}), cfg["access"]["top_k"]
    if top_k is not None and top_k > most:
        raise ConfigError(
            f"access.top_k: expected a whole number in 1..{most}, for {len(names)} labels in the answers and {OTHER}, "
            f"got {top_k}; set access.top_k={most} and run_dir={directory.path}, where the answers so far are kept"
        )
    return {**cfg, "source": {**cfg["source"], "classes": names}}
