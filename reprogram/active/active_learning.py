"""Active learning from a config to its records: a plain function, so that tests call it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprogram import build
from reprogram.active.curve import draw_curve, write_curve
from reprogram.active.labellers import Waiting
from reprogram.active.learner import Learner
from reprogram.active.loop import CHANGEABLE, Rounds, claim
from reprogram.active.mapping_rounds import MappingRounds
from reprogram.active.options import Options
from reprogram.active.plan import Plan
from reprogram.active.strategies import Strategy
from reprogram.active.whole_runs import WholeRuns
from reprogram.checks import check_monitor, is_black_box
from reprogram.composed import check_blocks
from reprogram.errors import ConfigError
from reprogram.instantiation import call, without
from reprogram.records import RunDirectory
from reprogram.sources.account_server import SCHEME
from reprogram.sources.ledger import LEDGER_FILE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What active learning gives back.

    Args:
        folder: Of all rounds.
        records: One for each round that has ended.
        run: Directory of the finished run with all labels; ``None``: not there yet.
        waiting: What a person has to do first; ``None``: nothing.
    """

    folder: Path
    records: list[dict[str, Any]]
    run: Path | None = None
    waiting: str | None = None


def learn(cfg: Mapping[str, Any]) -> Outcome | None:
    """Goes through the rounds, or on with them.

    Args:
        cfg: As composed from ``configs/active.yaml``.

    Returns:
        The outcome; ``None`` after a dry run.

    Raises:
        ReprogramError: For everything that the user can put right.
    """
    cfg = build.plain(cfg)
    block = cfg.pop("active")
    about = {**cfg, "active": block}
    check_blocks(cfg)
    for key in ("resume", "start_from"):
        if cfg[key] is not None:
            raise ConfigError(f"{key}: is of one run; the same command goes on with rounds that were left")
    if cfg["protocol"]["labels"] is not None:
        raise ConfigError("protocol.labels: each round has its own; leave it out")
    options: Options = call({"_target_": f"{Options.__module__}.Options", **without(block, ("strategy",))}, "active")
    if not isinstance(block["strategy"], Mapping):
        raise ConfigError(f"active.strategy: expected a block with _target_, got {block['strategy']!r}")
    strategy: Strategy = call(block["strategy"], "active.strategy")
    black_box = is_black_box(cfg)
    when = options.train or ("last" if black_box else "each")
    if black_box and when == "each":
        raise ConfigError(
            "active.train: expected last behind a black box, where every round would pay for its training, for the "
            "pool and for test, got each"
        )
    if options.warm_start and when == "last":
        raise ConfigError(
            "active.warm_start: expected false where the program is trained after the last round alone, so that no "
            "round has one to begin with, got true"
        )
    pool = build.pool(cfg)
    check_monitor(cfg["callbacks"]["monitor"], pool.spec)
    folder = Path(cfg["run_dir"] or f"runs/active_{_digest(cfg, block)[:8]}").absolute()
    known = 0 if options.labels == "data" else int((pool.known >= 0).sum())
    targets = options.targets(len(pool.examples), known)
    account = None
    if black_box:
        account = build.ledger(cfg, folder)  # in the folder, unless it is shared: it may be moved with it
        cfg = {**cfg, "access": _paid_once(cfg["access"], folder)}
    each = when == "each"
    learner: Learner = WholeRuns(cfg, pool, options.warm_start) if each else MappingRounds(cfg, pool, account)
    prices = options.price_per_label, cfg["access"].get("price_per_1000")
    trained_on = len(pool.examples) if strategy.passes_on else targets[-1]  # at most
    plan = Plan(len(pool.examples), known, targets, learner.queries(trained_on), *prices)
    for position, line in enumerate(plan.lines()):
        log.info("%-8s %s", "" if position else "plan", line)
    if cfg["access"].get("dry_run"):
        return None
    directory = RunDirectory(folder)
    directory.lock()
    try:
        claim(folder, pool, about)
        learner.open()
        rounds = Rounds(folder, pool, options, strategy, learner, cfg["seed"])
        waiting, run = None, None
        try:
            records = rounds.go()
            run = learner.finish(rounds.round(len(records)))
        except Waiting as reason:
            records, waiting = rounds.ended(), str(reason)
        if records:
            write_curve(folder / "curve.csv", records)
            title = f"{pool.spec.name}, {strategy.name}, pool of {len(pool.examples):,}"
            draw_curve(folder / "curve.png", records, cfg["callbacks"]["monitor"].removeprefix("val/"), title)
        return Outcome(folder, records, run, waiting)
    finally:
        if account is not None:
            account.release()
        directory.unlock()


def _paid_once(access: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One account and one store of answers for all rounds and the run at their end.

    Raises:
        ConfigError: If answers are not to be kept.
    """
    if access["store"] == "off":
        raise ConfigError("access.store: expected on, so that the pool is paid for once, got off")
    shared = access["ledger"] or str(folder / LEDGER_FILE)
    if not shared.startswith(SCHEME):
        shared = str(Path(shared).expanduser().absolute())
    return {**access, "ledger": shared, "store": "on"}


def _digest(cfg: Mapping[str, Any], block: Mapping[str, Any]) -> str:
    """The same for a line that goes on with rounds: with more of them, a part of a sheet, or a larger budget."""
    access = without(cfg["access"], ("query_budget", "dry_run"))
    value = {**cfg, "access": access, "active": without(block, CHANGEABLE)}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
