"""Refuses wrong configuration values that no constructor sees before training."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from reprogram.errors import ConfigError
from reprogram.evaluation import metrics
from reprogram.instantiation import bind
from reprogram.types import SourceSpec, TaskSpec

NUMBERS = (  # group, key, what is expected, from, below
    ("callbacks", "min_delta", "a number >= 0", 0, math.inf),
    ("callbacks", "confidence", "a number in [0.5, 1) or null", 0.5, 1),
    ("optimizer", "lr", "a number >= 0", 0, math.inf),
    ("optimizer", "mapping_lr", "a number >= 0 or null", 0, math.inf),
    ("trainer", "gradient_clip_val", "a number > 0 or null", math.ulp(0.0), math.inf),
)


def check(cfg: Mapping[str, Any]) -> None:
    """Refuses wrong numbers that no constructor sees before training.

    Raises:
        ConfigError: Naming the key.
    """
    models = ("source", "access", "program", "mapping", "estimator", "loss", "regularizer", "optimizer", "scheduler")
    for group in (*models, "data", "protocol", "trainer", "evaluation", "callbacks", "logger"):
        if not isinstance(cfg.get(group), dict):  # also that of a run from before there was such a group
            raise ConfigError(f"{group}: expected a choice such as {group}=NAME, got {cfg.get(group)!r}")
    bind(cfg["trainer"], "trainer")  # types
    if cfg["trainer"]["precision"] not in ("32-true", "32", 32):
        raise ConfigError("trainer.precision: expected 32-true; the source has its own, source.precision")
    if isinstance(cfg["seed"], int) and cfg["seed"] >= 2**32:
        raise ConfigError(f"seed: expected a whole number below 2^32, got {cfg['seed']}")
    least = {("seed",): 0, ("data", "batch_size"): 1, ("evaluation", "num_resamples"): 1}
    least |= {("callbacks", "checkpoint_every"): 1, ("trainer", "accumulate_grad_batches"): 1}
    if cfg["callbacks"]["patience"] is not None:
        least |= {("callbacks", "patience"): 1}
    if is_black_box(cfg):
        least |= {("access", "validations"): 2, ("access", "micro_batch"): 1}
        optional = {"query_budget": 1, "prime": 1, "spare": 0}  # a run from before there was a spare is continued
        least |= {("access", key): one for key, one in optional.items() if cfg["access"].get(key) is not None}
        check_black_box(cfg)
    for path, minimum in least.items():
        value: Any = cfg
        for key in path:
            value = value[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ConfigError(f"{'.'.join(path)}: expected a whole number >= {minimum}, got {value!r}")
    baselines = cfg["evaluation"]["baselines"]
    if baselines is not None and not (isinstance(baselines, list) and all(isinstance(name, str) for name in baselines)):
        raise ConfigError(f"evaluation.baselines: expected a list of names or null, got {baselines!r}")
    for key in ("local_source", "fine_tuning", "bands"):
        if not isinstance(cfg["evaluation"].get(key), dict):
            raise ConfigError(f"evaluation.{key}: expected a block of keys, got {cfg['evaluation'].get(key)!r}")
    paper = cfg["paper"]
    if paper is not None and not (
        isinstance(paper, dict)
        and set(paper) == {"table", "metric", "value", "note"}
        and all(isinstance(paper[key], str) for key in ("table", "metric", "note"))
        and isinstance(paper["value"], int | float)
    ):
        raise ConfigError(f"paper: expected null or table, metric and note (texts) and value (a number), got {paper!r}")
    if not isinstance(cfg["callbacks"]["monitor"], str):
        raise ConfigError(
            f"callbacks.monitor: expected a name such as val/accuracy, got {cfg['callbacks']['monitor']!r}"
        )
    labels = cfg["protocol"].get("labels")
    if labels is not None and not isinstance(labels, str):
        raise ConfigError(f"protocol.labels: expected a CSV file of id,label[,trust] or null, got {labels!r}")
    begun = cfg.get("start_from")
    if begun is not None and not isinstance(begun, str):
        raise ConfigError(f"start_from: expected a finished run, its program folder, or null, got {begun!r}")
    augmentation = cfg["data"]["augmentation"]
    if augmentation is not None and not isinstance(augmentation, dict):
        raise ConfigError(f"data.augmentation: expected null or a block with _target_, got {augmentation!r}")
    for group, key, expected, low, high in NUMBERS:
        # not all optimizers have a rate; a run from before there was such a key is not continued
        value = cfg[group].get(key, low if group == "optimizer" else "nothing")
        if (value is None and expected.endswith("null")) or (
            isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high
        ):
            continue
        raise ConfigError(f"{group}.{key}: expected {expected}, got {value!r}")
    if cfg["trainer"]["max_steps"] == 0:
        raise ConfigError("trainer.max_steps: expected a whole number >= 1, or -1 for no bound, got 0")
    if cfg["callbacks"]["mode"] not in ("min", "max"):
        raise ConfigError(f"callbacks.mode: expected min or max, got {cfg['callbacks']['mode']!r}")


def is_black_box(cfg: Mapping[str, Any]) -> bool:
    """Whether the source is behind a black box."""
    return cfg["access"].get("_target_") is not None


def check_black_box(cfg: Mapping[str, Any]) -> None:
    """Refuses wrong choices of the run's own keys of ``access``.

    Raises:
        ConfigError: Naming the key.
    """
    access = cfg["access"]
    for key in ("price_per_1000", "queries_per_second"):
        value = access[key]
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf
        ):
            raise ConfigError(f"access.{key}: expected a number > 0 or null, got {value!r}")
    if not isinstance(access["dry_run"], bool):
        raise ConfigError(f"access.dry_run: expected true or false, got {access['dry_run']!r}")
    ledger = access["ledger"]
    scheme = ledger.partition("://")[0] if isinstance(ledger, str) and "://" in ledger else None
    if (ledger is not None and not isinstance(ledger, str)) or scheme not in (None, "postgresql"):
        got = repr(ledger) if scheme is None else f"{scheme}://..."  # the rest may hold a password
        raise ConfigError(f"access.ledger: expected a file name, postgresql://user@host/database or null, got {got}")
    if cfg["estimator"].get("_target_") == "reprogram.estimators.backprop.Backprop":
        raise ConfigError(
            "estimator: expected one that works from scores, got backprop: access=black_box hides the gradient; "
            "choose estimator=two_sided"
        )


def check_scores(source: SourceSpec, needed: bool) -> None:
    """Refuses an estimator that labels alone tell nothing.

    Raises:
        ConfigError: Naming those that can use them.
    """
    if needed and not source.scores:
        raise ConfigError(
            f"estimator: expected nes or cma_es, since {source.name} gives a label without a score: small changes of "
            "the program change nothing"
        )


def check_monitor(monitor: str, task: TaskSpec) -> None:
    """Refuses a monitor that the task has no metric for: these are known before the first epoch.

    Raises:
        ConfigError: Naming those there are.
    """
    uniform = np.full((task.num_classes, task.num_classes), 1 / task.num_classes)
    known = [f"val/{name}" for name in metrics.evaluate(np.arange(task.num_classes), uniform, None, task.ordinal)]
    if monitor not in known:
        raise ConfigError(f"callbacks.monitor: expected one of {', '.join(known)}, got '{monitor}'")
