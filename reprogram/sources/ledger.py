"""The account of a black box: what was asked, what may still be asked, and what was answered."""

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reprogram.errors import ConfigError, QueryBudgetExceeded, RunError

PURPOSES = ("train", "mapping", "validation", "test", "baseline", "other")
"""What an image may be sent for."""

BUSY_SECONDS = 60.0
"""How long a process waits for the others; a transaction takes a fraction of a millisecond."""

CHUNK = 500  # keys of one SQL statement; SQLite's oldest limit is 999

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS queries (
    run TEXT, purpose TEXT, spent INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, purpose));
CREATE TABLE IF NOT EXISTS in_flight (
    process TEXT PRIMARY KEY, run TEXT NOT NULL, purpose TEXT NOT NULL, images INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, log_probs BLOB NOT NULL);
COMMIT;
"""
SUMS = "SELECT COALESCE(SUM(spent), 0), COALESCE(SUM(reserved), 0) FROM queries"


class Ledger:
    """Counts every image before it is sent, so that no crash and no neighbour can make a run pass the budget.

    Several processes of several runs of one machine may share one file; what all of them spend and reserve counts
    against the budget. After a crash: the oracle's own count <= ``total`` <= the oracle's count + ``uncertain``.

    Args:
        path: SQLite file, made when first used; ``None``: in memory, for one process only.
        run: Name of this run's rows (its directory): a resumed run finds them again.
        budget: Most queries that all runs in the file may ever spend, >= 0; ``None``: no bound.

    Raises:
        ConfigError: If the budget is not a whole number >= 0.
        RunError: By every method, if the file cannot be used.
    """

    def __init__(self, path: Path | None, run: str, budget: int | None = None) -> None:
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
            raise ConfigError(f"access.query_budget: expected a whole number >= 0 or null, got {budget!r}")
        self.path, self.run, self.budget = path, run, budget
        self._purpose = "other"
        self._name = uuid.uuid4().hex
        self._connections: dict[int, sqlite3.Connection] = {}  # by process: a forked child leaves its parent's alone

    @property
    def current_purpose(self) -> str:
        """What images that are sent now are for."""
        return self._purpose

    @contextmanager
    def purpose(self, name: str) -> Iterator[None]:
        """Says what the images sent within the block are for; outside any block: ``other``.

        Raises:
            ConfigError: If ``name`` is not one of ``PURPOSES``.
        """
        outer, self._purpose = self._purpose, _known(name)
        try:
            yield
        finally:
            self._purpose = outer

    def begin(self) -> None:
        """Starts or resumes the run; called once, by its first process, before any other of its processes asks.

        Images that its processes had in flight when they died, or when the oracle failed, become uncertain; its old
        reservations are dropped.
        """
        with self._transaction() as connection:
            connection.execute("UPDATE in_flight SET lost = 1 WHERE run = ?", (self.run,))
            connection.execute("UPDATE queries SET reserved = 0 WHERE run = ?", (self.run,))

    def knows_run(self) -> bool:
        """Whether this run has reserved or spent anything, ever."""
        return bool(self._rows("SELECT 1 FROM queries WHERE run = ? LIMIT 1", self.run))

    def reserve(self, amounts: Mapping[str, int]) -> None:
        """Sets this run's reservations for the given purposes, all or none; those for other purposes stay.

        Raises:
            ConfigError: If a purpose has no such name.
            QueryBudgetExceeded: If what is spent and what everybody reserves would pass the budget.
        """
        assert min(amounts.values(), default=0) >= 0
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO queries (run, purpose, reserved) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET reserved = excluded.reserved",
                [(self.run, _known(purpose), amount) for purpose, amount in amounts.items()],
            )
            spent, reserved = connection.execute(SUMS).fetchone()
            if self.budget is not None and spent + reserved > self.budget:
                wanted = ", ".join(f"{amount} for {purpose}" for purpose, amount in amounts.items())
                raise self._exceeded(f"reserve {wanted}", spent, reserved - sum(amounts.values()))

    def hold(self, count: int) -> bool:
        """Sets the reservation for ``train`` if it fits; else leaves all as it is and returns ``False``."""
        try:
            self.reserve({"train": count})
        except QueryBudgetExceeded:
            return False
        return True

    def release(self) -> None:
        """Drops this run's reservations, and lets go of the file until it is used again."""
        with self._transaction() as connection:
            connection.execute("UPDATE queries SET reserved = 0 WHERE run = ?", (self.run,))
        if self.path is not None:
            self._connections.pop(os.getpid()).close()  # the last to close leaves one file, without a log beside it

    def spend(self, count: int) -> None:
        """Counts images under the current purpose and as in flight; to be called before they are sent.

        This run's reservation for the purpose is used up first; the rest must be free.

        Raises:
            QueryBudgetExceeded: If the budget does not allow it; then nothing is counted.
        """
        assert count >= 0
        row = (self.run, self._purpose)
        with self._transaction() as connection:
            spent, reserved = connection.execute(SUMS).fetchone()
            own = connection.execute("SELECT reserved FROM queries WHERE run = ? AND purpose = ?", row).fetchone()
            covered = min(count, own[0] if own else 0)
            others = reserved - covered if count > covered else 0
            # also a covered one is checked: runs with larger budgets of their own may have spent past this one
            if self.budget is not None and spent + count + others > self.budget:
                raise self._exceeded(f"send {count} images for {self._purpose}", spent, reserved - covered)
            connection.execute(
                "INSERT INTO queries (run, purpose, spent) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET spent = spent + excluded.spent, reserved = reserved - ?",
                (*row, count, covered),
            )
            connection.execute(
                "INSERT INTO in_flight (process, run, purpose, images) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET images = images + excluded.images",
                (self._process, *row, count),
            )

    def keep(self, answers: Mapping[bytes, Tensor], settled: bool = True) -> None:
        """Stores answers, float32 [K_s] log-probabilities by key, and settles if so wished, in one transaction."""
        rows = [(key, answer.cpu().numpy().tobytes()) for key, answer in answers.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
            if settled:
                connection.execute("DELETE FROM in_flight WHERE process = ?", (self._process,))

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The stored answers, float32 [K_s] log-probabilities, to those of the keys that have one."""
        found: dict[bytes, Tensor] = {}
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            for key, answer in self._rows(f"SELECT key, log_probs FROM answers WHERE key IN ({marks})", *part):
                found[key] = torch.frombuffer(bytearray(answer), dtype=torch.float32)
        return found

    def spent(self) -> dict[str, int]:
        """Queries of this run, for every purpose."""
        counts = dict(self._rows("SELECT purpose, spent FROM queries WHERE run = ?", self.run))
        return {purpose: counts.get(purpose, 0) for purpose in PURPOSES}

    def total(self) -> int:
        """Queries of all runs in the file."""
        return int(self._rows(SUMS)[0][0])

    def free(self) -> int | None:
        """Queries neither spent nor reserved by anybody; ``None`` without a budget."""
        return None if self.budget is None else max(0, self.budget - sum(self._rows(SUMS)[0]))

    def lost(self) -> dict[str, int]:
        """Counted queries of this run that no answer was stored for, because a process died, by purpose."""
        rows = self._rows(
            "SELECT purpose, SUM(images) FROM in_flight WHERE run = ? AND lost GROUP BY purpose", self.run
        )
        return dict.fromkeys(PURPOSES, 0) | dict(rows)

    @property
    def uncertain(self) -> int:
        """Counted queries of this run that may never have reached the oracle, because a process died."""
        return sum(self.lost().values())

    @property
    def _process(self) -> str:
        return f"{self._name}-{os.getpid()}"

    def _exceeded(self, action: str, spent: int, reserved: int) -> QueryBudgetExceeded:
        assert self.budget is not None
        return QueryBudgetExceeded(
            f"access.query_budget: cannot {action}: of {self.budget} queries {spent} are spent and {reserved} reserved "
            "for other uses; the same command with a larger access.query_budget goes on; or let the runs that share "
            "the ledger finish",
            used=spent,
            budget=self.budget,
        )

    def _rows(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            return connection.execute(statement, arguments).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The right to write, from the start (a reader that turns writer could be refused); undone by an error."""
        with self._connection() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """This process's connection; what SQLite refuses becomes our error."""
        process = os.getpid()
        try:
            if process not in self._connections:
                if self.path is None and self._connections:
                    raise RunError("ledger: one in memory is for one process, got a second; set access.ledger=FILE")
                self._connections[process] = _connect(self.path)
            yield self._connections[process]
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"access.ledger: expected a writable SQLite file of this package at {self.path or 'memory'}, got "
                f"'{error}'; see to disk space and permissions, or choose another file with access.ledger=FILE"
            ) from error


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None)
    # A write-ahead log with synchronous=NORMAL is written at each commit but not flushed to the disk: what is
    # committed survives the death (SIGKILL) of the process, and a power cut costs the last commits at most.
    connection.execute("PRAGMA synchronous = NORMAL")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:  # the timeout does not cover this change of mode, and a neighbour may be making it
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.executescript(SCHEMA)
    return connection


def _known(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise ConfigError(f"ledger: expected a purpose of {', '.join(PURPOSES)}, got '{purpose}'")
    return purpose
