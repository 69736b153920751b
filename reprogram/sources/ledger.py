"""The account of a black box: what was asked, what may still be asked, and what was answered."""

import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from reprogram.errors import ConfigError, QueryBudgetExceeded
from reprogram.sources.account_file import AccountFile

PURPOSES = ("train", "mapping", "validation", "test", "baseline", "other")
"""What an image may be sent for."""

CHUNK = 500  # keys of one SQL statement; SQLite's oldest limit is 999

SUMS = "SELECT COALESCE(SUM(spent), 0), COALESCE(SUM(reserved), 0) FROM queries"


class Ledger:
    """Counts every image before it is sent, so that no crash and no neighbour can make a run pass the budget.

    Several processes of several runs of one machine may share one file; what all of them spend and reserve counts
    against the budget. After a crash: the oracle's own count <= ``total`` <= the oracle's count + ``uncertain``.
    Several threads may use it, as long as one at a time says what images are for.

    Args:
        path: SQLite file, made when first used; ``None``: in memory, for one process only.
        run: Name of this run's rows (its directory): a resumed run finds them again.
        budget: Most queries that all runs in the file may ever spend, >= 0; ``None``: no bound.
        over_network: Whether processes of several machines use it.

    Raises:
        ConfigError: If the budget is not a whole number >= 0.
        RunError: By every method, if the file cannot be used.
    """

    def __init__(self, path: Path | None, run: str, budget: int | None = None, over_network: bool = False) -> None:
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
            raise ConfigError(f"access.query_budget: expected a whole number >= 0 or null, got {budget!r}")
        self.path, self.run, self.budget = path, run, budget
        self._purpose = "other"
        self._name = uuid.uuid4().hex
        self._file = AccountFile(path, over_network)

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
        with self._file.transaction() as connection:
            connection.execute("UPDATE in_flight SET lost = 1 WHERE run = ?", (self.run,))
            connection.execute("UPDATE queries SET reserved = 0 WHERE run = ?", (self.run,))

    def knows_run(self) -> bool:
        """Whether this run has reserved or spent anything, ever."""
        return bool(self._file.rows("SELECT 1 FROM queries WHERE run = ? LIMIT 1", self.run))

    def reserve(self, amounts: Mapping[str, int]) -> None:
        """Sets this run's reservations for the given purposes, all or none; those for other purposes stay.

        Raises:
            ConfigError: If a purpose has no such name.
            QueryBudgetExceeded: If what is spent and what everybody reserves would pass the budget.
        """
        assert min(amounts.values(), default=0) >= 0
        with self._file.transaction() as connection:
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
        with self._file.transaction() as connection:
            connection.execute("UPDATE queries SET reserved = 0 WHERE run = ?", (self.run,))
        self._file.close()

    def spend(self, count: int) -> int:
        """Counts images under the current purpose and as in flight; to be called before they are sent.

        This run's reservation for the purpose is used up first; the rest must be free.

        Returns:
            How many of them the reservation covered.

        Raises:
            QueryBudgetExceeded: If the budget does not allow it; then nothing is counted.
        """
        assert count >= 0
        row = (self.run, self._purpose)
        with self._file.transaction() as connection:
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
        return covered

    def keep(self, answers: Mapping[bytes, bytes], settled: int | None = None) -> None:
        """Stores answers by key, and takes so many images out of flight (``None``: all), in one transaction."""
        with self._file.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", answers.items())
            self._land(connection, settled)

    def fail(self, count: int, charged: bool | None, covered: int = 0) -> None:
        """Takes images out of flight that got no usable answer.

        Args:
            count: How many.
            charged: Whether they are paid for. If not, they are counted no more; ``None``: unknown, they stay counted
                and are uncertain.
            covered: How many of them the reservation covered: it gets them back if they are not paid for.
        """
        with self._file.transaction() as connection:
            self._land(connection, count)
            if charged is False:
                connection.execute(
                    "UPDATE queries SET spent = spent - ?, reserved = reserved + ? WHERE run = ? AND purpose = ?",
                    (count, covered, self.run, self._purpose),
                )
                return
            connection.execute(
                "INSERT INTO failures (run, purpose, charged, unclear) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET charged = charged + excluded.charged, unclear = unclear + excluded.unclear",
                (self.run, self._purpose, count if charged else 0, 0 if charged else count),
            )

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored answers to those of the keys that have one."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            found |= self._file.rows(f"SELECT key, log_probs FROM answers WHERE key IN ({marks})", *part)
        return found

    def spent(self) -> dict[str, int]:
        """Queries of this run, for every purpose."""
        counts = dict(self._file.rows("SELECT purpose, spent FROM queries WHERE run = ?", self.run))
        return {purpose: counts.get(purpose, 0) for purpose in PURPOSES}

    def total(self) -> int:
        """Queries of all runs in the file."""
        return int(self._file.rows(SUMS)[0][0])

    def free(self) -> int | None:
        """Queries neither spent nor reserved by anybody; ``None`` without a budget."""
        return None if self.budget is None else max(0, self.budget - sum(self._file.rows(SUMS)[0]))

    def lost(self) -> dict[str, int]:
        """Counted queries of this run that got no usable answer, by purpose: a process died, or the oracle failed."""
        rows = self._file.rows(
            "SELECT purpose, SUM(images) FROM (SELECT purpose, images FROM in_flight WHERE run = ? AND lost "
            "UNION ALL SELECT purpose, charged + unclear FROM failures WHERE run = ?) GROUP BY purpose",
            self.run,
            self.run,
        )
        return dict.fromkeys(PURPOSES, 0) | dict(rows)

    @property
    def retried(self) -> int:
        """Counted queries of this run that the oracle answered with nothing usable, though it may charge them."""
        rows = self._file.rows("SELECT COALESCE(SUM(charged + unclear), 0) FROM failures WHERE run = ?", self.run)
        return int(rows[0][0])

    @property
    def uncertain(self) -> int:
        """Counted queries of this run that may not have been charged: a process died, or the oracle said nothing."""
        rows = self._file.rows(
            "SELECT (SELECT COALESCE(SUM(images), 0) FROM in_flight WHERE run = ? AND lost) + "
            "(SELECT COALESCE(SUM(unclear), 0) FROM failures WHERE run = ?)",
            self.run,
            self.run,
        )
        return int(rows[0][0])

    def _land(self, connection: sqlite3.Connection, images: int | None) -> None:
        if images is not None:
            connection.execute("UPDATE in_flight SET images = images - ? WHERE process = ?", (images, self._process))
        bound = "" if images is None else " AND images <= 0"
        connection.execute(f"DELETE FROM in_flight WHERE process = ?{bound}", (self._process,))

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


def _known(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise ConfigError(f"ledger: expected a purpose of {', '.join(PURPOSES)}, got '{purpose}'")
    return purpose
