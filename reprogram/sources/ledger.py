"""The account of a black box: what was asked, what may still be asked, and what was answered."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprogram.errors import ConfigError, QueryBudgetExceeded
from reprogram.sources.account_file import AccountFile
from reprogram.sources.account_server import SCHEME, AccountServer

PURPOSES = ("train", "mapping", "validation", "test", "baseline", "attack", "other")
"""What an image may be sent for."""

LEDGER_FILE, OWN_RUN = "ledger.sqlite", "."
"""The account of a single run, in its folder, and the name of its rows there."""

CHUNK = 500  # keys of one SQL statement; SQLite's oldest limit is 999

SUMS = "SELECT COALESCE(SUM(spent), 0), COALESCE(SUM(reserved), 0) FROM queries"


class Ledger:
    """Counts every image before it is sent, so that no crash and no neighbour can make a run pass the budget.

    Several processes of several runs may share one file on one machine, or a database; what all of them spend and
    reserve counts against the budget. After a crash: the oracle's own count <= ``total`` <= the oracle's count +
    ``uncertain``. Several threads may use it, as long as one at a time says what images are for.

    Args:
        path: SQLite file, made when first used; address of a PostgreSQL database, see ``AccountServer``; ``None``: in
            memory, for one process only.
        run: Name of this run's rows (its directory): a resumed run finds them again.
        budget: Most queries that all runs in the file may ever spend, >= 0; ``None``: no bound.

    Raises:
        ConfigError: If the budget is not a whole number >= 0.
        RunError: By every method, if the file cannot be used.
    """

    def __init__(self, path: Path | str | None, run: str, budget: int | None = None) -> None:
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
            raise ConfigError(f"access.query_budget: expected a whole number >= 0 or null, got {budget!r}")
        self.path, self.run, self.budget = path, run, budget
        self._purpose = "other"
        self._name = uuid.uuid4().hex
        self._file = AccountServer(path) if isinstance(path, str) else AccountFile(path)

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
                "ON CONFLICT (run, purpose) DO UPDATE SET reserved = excluded.reserved",
                [(self.run, _known(purpose), amount) for purpose, amount in amounts.items()],
            )
            spent, reserved = connection.execute(SUMS).fetchone()
            if self.budget is not None and spent + reserved > self.budget:
                wanted = ", ".join(f"{amount} for {purpose}" for purpose, amount in amounts.items())
                raise self._exceeded(f"reserve {wanted}", spent, reserved - sum(amounts.values()))

    def hold(self, count: int, spare: int = 0) -> bool:
        """Sets the reservation for ``train`` if it fits beside so many spare queries; else leaves all as it is."""
        try:
            if spare and count:  # nothing is held by what costs nothing
                self.reserve({"train": count + spare})
            self.reserve({"train": count})
        except QueryBudgetExceeded:
            return False
        return True

    def release(self) -> None:
        """Drops this run's reservations, and lets go of the file until it is used again."""
        with self._file.transaction() as connection:
            connection.execute("UPDATE queries SET reserved = 0 WHERE run = ?", (self.run,))
        self._file.close()

    def spend(self, count: int, purpose: str | None = None) -> int:
        """Counts images under a purpose (``None``: the current one) and as in flight, before they are sent.

        This run's reservation for the purpose is used up first; the rest must be free.

        Returns:
            How many of them the reservation covered.

        Raises:
            QueryBudgetExceeded: If the budget does not allow it; then nothing is counted.
        """
        assert count >= 0
        row = (self.run, purpose or self._purpose)
        with self._file.transaction() as connection:
            spent, reserved = connection.execute(SUMS).fetchone()
            own = connection.execute("SELECT reserved FROM queries WHERE run = ? AND purpose = ?", row).fetchone()
            covered = min(count, own[0] if own else 0)
            others = reserved - covered if count > covered else 0
            # also a covered one is checked: runs with larger budgets of their own may have spent past this one
            if self.budget is not None and spent + count + others > self.budget:
                raise self._exceeded(f"send {count} images for {row[1]}", spent, reserved - covered)
            connection.execute(
                "INSERT INTO queries (run, purpose, spent) VALUES (?, ?, ?) "
                "ON CONFLICT (run, purpose) DO UPDATE SET spent = queries.spent + excluded.spent, "
                "reserved = queries.reserved - ?",
                (*row, count, covered),
            )
            connection.execute(
                "INSERT INTO in_flight (process, run, purpose, images) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (process) DO UPDATE SET images = in_flight.images + excluded.images",
                (self._process, *row, count),
            )
        return covered

    def keep(self, answers: Mapping[bytes, bytes], settled: int | None = None) -> None:
        """Stores answers by key, and takes so many images out of flight (``None``: all), in one transaction."""
        with self._file.transaction() as connection:
            connection.executemany("INSERT INTO answers VALUES (?, ?) ON CONFLICT DO NOTHING", answers.items())
            self._land(connection, settled)

    def fail(self, count: int, charged: bool | None, covered: int = 0, purpose: str | None = None) -> None:
        """Takes images out of flight that got no usable answer.

        Args:
            count: How many.
            charged: Whether they are paid for. If not, they are counted no more; ``None``: unknown, they stay counted
                and are uncertain.
            covered: How many of them the reservation covered: it gets them back if they are not paid for.
            purpose: That they were counted under; ``None``: the current one.
        """
        row = (self.run, purpose or self._purpose)
        with self._file.transaction() as connection:
            self._land(connection, count)
            if charged is False:
                connection.execute(
                    "UPDATE queries SET spent = spent - ?, reserved = reserved + ? WHERE run = ? AND purpose = ?",
                    (count, covered, *row),
                )
                return
            connection.execute(
                "INSERT INTO failures (run, purpose, charged, unclear) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (run, purpose) DO UPDATE SET charged = failures.charged + excluded.charged, "
                "unclear = failures.unclear + excluded.unclear",
                (*row, count if charged else 0, 0 if charged else count),
            )

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored answers to those of the keys that have one."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            found |= self._file.rows(f"SELECT key, log_probs FROM answers WHERE key IN ({marks})", *part)
        return found

    def exists(self) -> bool:
        """Whether there is a file, where it is one; all other methods make it."""
        return not isinstance(self.path, Path) or self.path.is_file()

    def has_answers(self) -> bool:
        """Whether anything is stored; makes no file."""
        return self.exists() and bool(self._file.rows("SELECT 1 FROM answers LIMIT 1"))

    def spent(self) -> dict[str, int]:
        """Queries of this run, for every purpose."""
        counts = dict(self._file.rows("SELECT purpose, spent FROM queries WHERE run = ?", self.run))
        return {purpose: counts.get(purpose, 0) for purpose in PURPOSES}

    def total(self) -> int:
        """Queries of all runs in the file."""
        return int(self._file.rows(SUMS)[0][0])

    def taken(self) -> int:
        """Queries spent or reserved by anybody."""
        return int(sum(self._file.rows(SUMS)[0]))

    def free(self) -> int | None:
        """Queries neither spent nor reserved by anybody; ``None`` without a budget."""
        return None if self.budget is None else max(0, self.budget - self.taken())

    def lost(self) -> dict[str, int]:
        """Counted queries of this run that got no usable answer, by purpose: a process died, or the oracle failed."""
        rows = self._file.rows(
            "SELECT purpose, SUM(images) FROM (SELECT purpose, images FROM in_flight WHERE run = ? AND lost = 1 "
            "UNION ALL SELECT purpose, charged + unclear FROM failures WHERE run = ?) AS counts GROUP BY purpose",
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
            "SELECT (SELECT COALESCE(SUM(images), 0) FROM in_flight WHERE run = ? AND lost = 1) + "
            "(SELECT COALESCE(SUM(unclear), 0) FROM failures WHERE run = ?)",
            self.run,
            self.run,
        )
        return int(rows[0][0])

    def _land(self, connection: Any, images: int | None) -> None:
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


def ledger_of(run_dir: Path, shared: str | None, budget: int | None = None) -> Ledger:
    """The account of a run: its own, in its directory, or the one that its neighbours share."""
    if shared is None:
        return Ledger(run_dir / LEDGER_FILE, OWN_RUN, budget)  # a run directory may be moved with its ledger
    place = shared if shared.startswith(SCHEME) else Path(shared).expanduser()
    return Ledger(place, str(run_dir.resolve()), budget)


def _known(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise ConfigError(f"ledger: expected a purpose of {', '.join(PURPOSES)}, got '{purpose}'")
    return purpose
