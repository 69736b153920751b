"""Rounds of learning, choosing and labelling, which go on where they were left."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reprogram.active import strategies
from reprogram.active.labellers import Given, from_data, from_person
from reprogram.active.learner import Learner
from reprogram.active.options import Options
from reprogram.active.round_files import PROPAGATED, Label, Round
from reprogram.active.strategies import UNKNOWN, Strategy
from reprogram.artefact import write_json
from reprogram.data.pool import Pool
from reprogram.errors import RunError

log = logging.getLogger(__name__)

FILE = "active.json"


@dataclass(frozen=True, eq=False)
class Rounds:
    """What takes part.

    Args:
        folder: Of all rounds.
        pool: What can be labelled, and what is.
        options: How many labels, from whom.
        strategy: What is chosen.
        learner: What learns.
        seed: Of choices.
    """

    folder: Path
    pool: Pool
    options: Options
    strategy: Strategy
    learner: Learner
    seed: int

    def go(self) -> list[dict[str, Any]]:
        """Goes on until the last round has ended; returns a record of each.

        Raises:
            Waiting: If a person has to label first.
        """
        records = self.ended()
        for number in range(1, len(records) + 1):
            self._check_labels(self.round(number))
        for count in self.targets():
            if records and count <= records[-1]["target"]:
                continue
            if records and self._is_enough(records[-1]):
                break
            this, before = self.round(len(records) + 1), self.round(len(records)) if records else None
            if this.labels() is None:
                self._label(this, before, count)
            self._check_labels(this)
            this.end({"target": count, **self._learn(this, before)})
            records = self.ended()
        return records

    def targets(self) -> list[int]:
        """Labels at the end of each round: a person's start from those that the data have."""
        return self.options.targets(len(self.pool.examples), len(self._known()))

    def ended(self) -> list[dict[str, Any]]:
        """Records of the rounds that have ended."""
        records: list[dict[str, Any]] = []
        while (record := self.round(len(records) + 1).record()) is not None:
            records.append(record)
        return records

    def round(self, number: int) -> Round:
        """One of them, from 1."""
        return Round(number, self.folder / f"round_{number}")

    def _is_enough(self, record: Mapping[str, Any]) -> bool:
        """Whether the model is sure enough of the rest, or there is no rest."""
        found, sure = record["confidence"], self.options.confidence
        if found is None:
            log.info("stopped  every example of the pool is labelled or skipped")
            return True
        if sure is None or found < sure:
            return False
        log.info("stopped  a mean confidence of %.3f is at least %g", found, sure)
        return True

    def _known(self) -> list[Label]:
        if self.options.labels == "data":
            return []
        names, ids = self.pool.spec.class_names, self.pool.examples.ids
        rows = np.flatnonzero(self.pool.known != UNKNOWN)
        return [Label(ids[row], names[self.pool.known[row]], 1.0, "data", 0) for row in rows]

    def _label(self, this: Round, before: Round | None, count: int) -> None:
        """Chooses, waits for the labels, passes them on, and writes all of them down."""
        labels = self._known() if before is None else [one for one in before.labels() or [] if one.origin != PROPAGATED]
        skipped = [] if before is None else before.skipped()
        row_of = {name: row for row, name in enumerate(self.pool.examples.ids)}
        seed = int(np.random.SeedSequence((self.seed, this.number)).generate_state(1)[0])
        if this.chosen() is None:
            missing = count - len(labels)
            seen = self._seen(labels, skipped, before)
            rows = self.strategy.choose(seen, max(0, missing), seed).tolist()
            this.choose([self.pool.examples.ids[row] for row in rows])
            rest = len(row_of) - len(labels) - len(skipped)
            log.info("round %-2d %d of %d examples chosen", this.number, len(rows), rest)
        given = self._ask(this, row_of) if this.chosen() else Given({})
        labels += [Label(name, label, 1.0, self.options.labels, this.number) for name, label in given.labels.items()]
        skipped = [*skipped, *given.skipped]
        if not labels:
            raise RunError(
                f"{this.path}: every example was skipped, so there is nothing to learn from; label one in sheet.csv, "
                "or begin with more of them (active.fractions) in another run_dir"
            )
        found = None
        if self.strategy.passes_on:  # else the pool need not be looked at again
            found = self.strategy.propagate(self._seen(labels, skipped, before), seed)
        if found is not None:
            names, ids = self.pool.spec.class_names, self.pool.examples.ids
            passed_on = zip(found.rows, found.labels, found.trust.tolist(), strict=True)
            labels += [Label(ids[row], names[one], trust, PROPAGATED, this.number) for row, one, trust in passed_on]
        this.label(labels, skipped)

    def _ask(self, this: Round, row_of: Mapping[str, int]) -> Given:
        if self.options.labels == "data":
            return from_data(this, self.pool, row_of)
        return from_person(this, self.pool, row_of, self.options.partial)

    def _seen(self, labels: list[Label], skipped: list[str], before: Round | None) -> strategies.Pool:
        """The pool as a strategy sees it."""
        row_of = {name: row for row, name in enumerate(self.pool.examples.ids)}
        class_of = {name: index for index, name in enumerate(self.pool.spec.class_names)}
        classes = np.full(len(row_of), UNKNOWN, dtype=np.int64)
        closed = np.zeros(len(row_of), dtype=bool)
        for one in labels:
            classes[row_of[one.id]] = class_of[one.label]
        closed[[row_of[name] for name in skipped]] = True
        kind = self.strategy.features
        return strategies.Pool(
            classes,
            closed,
            None if before is None or kind is not None else self.learner.probabilities(before),
            None if kind is None else self.learner.features(kind),
        )

    def _check_labels(self, this: Round) -> None:
        """Refuses a file of labels that was lost or edited: what it said would be asked again, or be learned wrongly.

        Raises:
            RunError: If there are no labels, or labels of other examples or classes.
        """
        labels, ids, names = this.labels(), set(self.pool.examples.ids), set(self.pool.spec.class_names)
        if not labels:
            raise RunError(f"{this.labels_file}: expected the labels of the round, got none; put a copy back")
        wrong = [one.id for one in labels if one.id not in ids or one.label not in names]
        if wrong:
            raise RunError(
                f"{this.labels_file}: expected examples of the pool and classes of the task, got others in "
                f"{', '.join(wrong[:5])}; it is not for editing, put a copy back"
            )

    def _learn(self, this: Round, before: Round | None) -> dict[str, Any]:
        found = self.learner.learn(this, before)
        labels = this.labels() or []
        taken = {one.id for one in labels if one.origin != PROPAGATED} | set(this.skipped())
        rest = [row for row, name in enumerate(self.pool.examples.ids) if name not in taken]
        sure = float(self.learner.probabilities(this)[rest].max(axis=1).mean()) if rest else None
        count = sum(one.origin != PROPAGATED for one in labels)
        record = {
            "round": this.number,
            "labels": count,
            "fraction": count / len(self.pool.examples),
            "confidence": sure,
            "propagated": self._propagated(labels),
            **found,
        }
        log.info(
            "round %-2d %d labels, validation accuracy %.3f, mean confidence in the rest %s",
            *(this.number, count, found["val"]["accuracy"]["value"], "-" if sure is None else f"{sure:.3f}"),
        )
        return record

    def _propagated(self, labels: list[Label]) -> dict[str, Any]:
        """How many labels nobody gave, and, where the data know, the share of them that is right."""
        known = dict(zip(self.pool.examples.ids, self.pool.known.tolist(), strict=True))
        passed_on = [one for one in labels if one.origin == PROPAGATED]
        checked = [one for one in passed_on if known[one.id] != UNKNOWN]
        right = sum(self.pool.spec.class_names[known[one.id]] == one.label for one in checked)
        mean = sum(one.trust for one in passed_on) / len(passed_on) if passed_on else None
        return {"count": len(passed_on), "accuracy": right / len(checked) if checked else None, "mean_trust": mean}


def claim(folder: Path, pool: Pool, cfg: Mapping[str, Any]) -> None:
    """Says what the rounds in a folder are about, or refuses others than those it holds.

    Args:
        folder: Of all rounds.
        pool: What can be labelled.
        cfg: Of the command; files may lie elsewhere now, since the folder may have moved.

    Raises:
        RunError: If the pool, what is chosen, or what is trained is another one than the rounds were begun with.
    """
    content = json.dumps([pool.spec.class_names, pool.examples.ids])
    kept = {key: value for key, value in cfg["active"].items() if key not in CHANGEABLE}
    trained = {key: _without_folders(cfg[key]) for key in TRAINED}
    record = {"pool": hashlib.sha256(content.encode()).hexdigest(), "seed": cfg["seed"], "active": kept, **trained}
    file = folder / FILE
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, record)
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({error}); put a copy back") from error
    if not isinstance(found, dict):
        raise RunError(f"{file}: expected what the rounds are about, got {found!r}; put a copy back")
    differing = [key for key in record if found.get(key) != record[key]]
    if differing:
        raise RunError(
            f"run_dir: {folder} holds rounds with another {', '.join(differing)}; give the line they were begun with, "
            "or choose another run_dir"
        )


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


TRAINED = ("source", "program", "mapping", "estimator", "loss", "regularizer", "optimizer", "scheduler")
"""Groups that must stay the same, so that a curve is of one model."""

CHANGEABLE = ("fractions", "max_labels", "confidence", "partial", "price_per_label")
