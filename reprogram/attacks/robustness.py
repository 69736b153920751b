"""How easily a finished run is fooled: the work behind ``reprogram-attack``."""

import json
import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reprogram import artefact, build, sourcing
from reprogram.attacks.account import PURPOSE, Account, counted
from reprogram.attacks.base import GradientAttack, QueryAttack, expect_at_least, expect_shown
from reprogram.attacks.campaign import ask, follow, look
from reprogram.attacks.pictures import draw_attacked, draw_curve
from reprogram.attacks.report import curve, write_curve
from reprogram.attacks.victim import BareSource, WholeClassifier
from reprogram.checks import is_black_box
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import SPLITS, Examples
from reprogram.data.splits import limit
from reprogram.errors import ConfigError, DataError, RunError
from reprogram.instantiation import call
from reprogram.records import RunDirectory, environment

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
ASKED = ("attack", "target", "split", "max_examples", "seed", "num_resamples")
TARGETS = ("classifier", "source")
ACCELERATORS = ("cpu", "gpu", "auto")


def attack(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Attacks a finished run, and writes the records and pictures.

    Args:
        cfg: As composed from ``configs/attack.yaml``.

    Returns:
        The contents of ``metrics.json``, and ``output``, its folder.

    Raises:
        RunError: If the run is not finished, or the attack is cut off; what was found of the images that it had come to
            is written then.
        ConfigError: If a value is wrong, or the source does not show what the attack follows.
        QueryBudgetExceeded: If the budget is too small for the attack; nothing is sent then.
        DataError: If not a single image is right before the attack.
    """
    cfg = build.plain(cfg)
    _check(cfg)
    directory = RunDirectory(Path(cfg["run"]))
    own = directory.read_config()
    directory.read_metrics()
    chosen: GradientAttack | QueryAttack = call(cfg["attack"], "attack", seed=cfg["seed"])
    output = Path(cfg["output"] or directory.path / "attacks" / f"{chosen.name}_{cfg['target']}")
    done = _finished(output, cfg)
    if done is not None:
        return {**done, "output": str(output)}
    device = torch.device(sourcing.device_type(cfg["accelerator"]))
    classifier = artefact.load(directory.path, device=device.type)
    expect_shown(chosen, classifier.source.spec)
    examples = limit(build.task_data(own).splits[cfg["split"]], cfg["max_examples"], cfg["seed"])
    folder = RunDirectory(output)
    folder.lock()
    try:
        return _attack(cfg, own, chosen, classifier, examples, output, device)
    finally:
        folder.unlock()


def _attack(
    cfg: dict[str, Any],
    own: dict[str, Any],
    chosen: GradientAttack | QueryAttack,
    classifier: ReprogrammedClassifier,
    examples: Examples,
    output: Path,
    device: torch.device,
) -> dict[str, Any]:
    account = None
    if isinstance(chosen, QueryAttack):
        price = own["access"]["price_per_1000"] if is_black_box(own) else None
        account = Account(counted(classifier, output), cfg["query_budget"], price)
        account.open(len(examples), chosen.max_queries)
    victim = WholeClassifier(classifier) if cfg["target"] == "classifier" else BareSource(classifier.source)
    started, batch_size = time.monotonic(), cfg["batch_size"] or own["data"]["batch_size"]
    images = victim.images(examples)
    with classifier.source.asked_for(PURPOSE):
        clean = look(victim, images, batch_size, device)
        # a bare source knows nothing of target classes: it is right as long as it says what it said at first
        labels = examples.targets if cfg["target"] == "classifier" else victim.decide(clean)
        right = victim.decide(clean) == labels
        if not right.any():
            raise DataError(
                f"{victim.spec.name}: expected images that are right before the attack, got none of {right.numel()}"
            )
        if isinstance(chosen, GradientAttack):
            outcome = follow(chosen, victim, images, labels, clean, batch_size, device)
        else:
            assert account is not None
            account.look_no_further()
            outcome = ask(chosen, victim, images, labels, clean, batch_size, device)
    wanted, cut_off = int(right.sum()), outcome.cut_off
    if cut_off is not None:
        rows = outcome.reached
        outcome, examples, images, labels = outcome.of_reached(), examples.subset(rows), images[rows], labels[rows]
        right = right[rows]
        if not right.any():
            raise _cut_off(cut_off, 0, wanted, output)
    counts = [count for count, fooled in zip(outcome.queries, outcome.fooled, strict=True) if fooled]
    curve_rows = curve(outcome, victim, labels, examples, cfg["num_resamples"], cfg["seed"])
    record = {
        "schema_version": SCHEMA_VERSION,
        "run": str(cfg["run"]),
        "complete": cut_off is None,
        "asked": _asked(cfg),
        "task": classifier.task.name,
        "source": classifier.source.spec.name,
        "access": "black_box" if is_black_box(own) else "white_box",
        "split": cfg["split"],
        "target": cfg["target"],
        "attack": {"name": chosen.name, **{key: value for key, value in cfg["attack"].items() if key != "_target_"}},
        "seed": cfg["seed"],
        "examples": len(examples),
        "attacked": int(right.sum()),
        "fooled": sum(outcome.fooled),
        "measure": outcome.measure,
        "curve": curve_rows,
        "median_queries": statistics.median(counts) if counts and account is not None else None,
        "queries": None if account is None else account.record(),
        "timing": {"attack_s": time.monotonic() - started},
        "source_fingerprint": classifier.source.fingerprint,
        "environment": environment(device),
    }
    (output / "metrics.json").unlink(missing_ok=True)  # of an earlier attack; written last, so all beside it is its own
    write_curve(output / "curve.csv", outcome.measure, curve_rows)
    title = f"{chosen.name} against {victim.spec.name}: {len(examples)} images of {cfg['split']}"
    draw_curve(output / "curve.png", outcome.measure, outcome.levels, [row["accuracy"] for row in curve_rows], title)
    draw_attacked(output / "examples.png", victim, images, outcome, title)
    artefact.write_json(output / "metrics.json", record)
    if cut_off is not None:
        raise _cut_off(cut_off, int(right.sum()), wanted, output)
    return {**record, "output": str(output)}


def _asked(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two attacks the same."""
    found: dict[str, Any] = json.loads(json.dumps({key: cfg[key] for key in ASKED}))  # as JSON keeps it
    return found


def _finished(output: Path, cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the very attack, which is not paid for twice; ``None``: it is still to be made.

    Raises:
        ConfigError: If the folder holds another attack.
        RunError: If its record cannot be read.
    """
    folder = RunDirectory(output)
    if not folder.metrics_file.is_file():
        return None
    record = folder.read_metrics()
    differing = [key for key, value in _asked(cfg).items() if record.get("asked", {}).get(key) != value]
    if differing:
        raise ConfigError(
            f"output: {output} holds an attack with another {', '.join(differing)}; choose another folder, output=..."
        )
    if not record.get("complete"):
        return None
    log.info("finished before: %s", output)
    return record


def _cut_off(reason: BaseException, done: int, wanted: int, output: Path) -> BaseException:
    """What to say, and how to end, when an attack ends before it is done."""
    found = f"their record is in {output}" if done else "nothing is recorded"
    told = f"{done} of {wanted} images were attacked before it was cut off; {found}; the same command begins anew"
    if isinstance(reason, KeyboardInterrupt):
        log.warning("%s", told)
        return reason
    error = RunError(f"{reason.args[0]} [{told}, with a larger query_budget where that was used up]")
    error.__cause__ = reason
    return error


def _check(cfg: dict[str, Any]) -> None:
    """Refuses what no constructor sees.

    Raises:
        ConfigError: Naming the key.
    """
    if not isinstance(cfg.get("attack"), dict):
        raise ConfigError(f"attack: expected a choice such as attack=pgd, got {cfg.get('attack')!r}")
    for key in ("run", "output"):
        if not isinstance(cfg[key], str | Path) and (key == "run" or cfg[key] is not None):
            raise ConfigError(f"{key}: expected the path of a folder, got {cfg[key]!r}")
    if cfg["output"] and Path(cfg["output"]).is_file():
        raise ConfigError(f"output: expected the path of a folder, but {cfg['output']} is a file")
    for key, known in (("split", SPLITS), ("target", TARGETS), ("accelerator", ACCELERATORS)):
        if cfg[key] not in known:
            raise ConfigError(f"{key}: expected one of {', '.join(known)}, got '{cfg[key]}'")
    least = {"num_resamples": 1, "seed": 0}
    least |= {key: 1 for key in ("max_examples", "query_budget", "batch_size") if cfg[key] is not None}
    for key, value in least.items():
        if not isinstance(cfg[key], int) or isinstance(cfg[key], bool):
            raise ConfigError(f"{key}: expected a whole number >= {value}, got {cfg[key]!r}")
        expect_at_least(key, cfg[key], value)
