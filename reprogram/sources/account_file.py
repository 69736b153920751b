"""The file of an account: a SQLite database of several processes, each with one connection for all its threads."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprogram.errors import RunError

BUSY_SECONDS = 60.0
"""How long a process waits for the others; a transaction takes a fraction of a millisecond."""

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS queries (
    run TEXT, purpose TEXT, spent INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, purpose));
CREATE TABLE IF NOT EXISTS in_flight (
    process TEXT PRIMARY KEY, run TEXT NOT NULL, purpose TEXT NOT NULL, images INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS failures (
    run TEXT, purpose TEXT, charged INTEGER NOT NULL DEFAULT 0, unclear INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, purpose));
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, log_probs BLOB NOT NULL);
COMMIT;
"""


class AccountFile:
    """Rows and transactions.

    Args:
        path: SQLite file, made when first used; ``None``: in memory, for one process only.
        over_network: Whether processes of several machines use it, on a file system that they share: slower.

    Raises:
        RunError: By every method, if the file cannot be used.
    """

    def __init__(self, path: Path | None, over_network: bool = False) -> None:
        self.path, self.over_network = path, over_network
        self._connections: dict[int, sqlite3.Connection] = {}  # by process: a forked child leaves its parent's alone
        self._one_thread = threading.RLock()

    def close(self) -> None:
        """Lets go of the file until it is used again; the last to close leaves one file, without a log beside it."""
        if self.path is not None:
            self._connections.pop(os.getpid()).close()

    def rows(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        with self._connection() as connection:
            return connection.execute(statement, arguments).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The right to write, from the start (a reader that turns writer could be refused); undone by an error."""
        with self._connection() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """This process's connection; what SQLite refuses becomes our error."""
        process = os.getpid()
        with self._one_thread:
            try:
                if process not in self._connections:
                    if self.path is None and self._connections:
                        raise RunError("ledger: one in memory is for one process, got a second; set access.ledger=FILE")
                    self._connections[process] = _connect(self.path, self.over_network)
                yield self._connections[process]
            except (sqlite3.Error, OSError) as error:
                raise RunError(
                    f"access.ledger: expected a writable SQLite file of this package at {self.path or 'memory'}, got "
                    f"'{error}'; see to disk space and permissions, or choose another file with access.ledger=FILE"
                ) from error


def _connect(path: Path | None, over_network: bool) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    # A write-ahead log with synchronous=NORMAL is written at each commit but not flushed to the disk: what is
    # committed survives the death (SIGKILL) of the process, and a power cut costs the last commits at most.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Moving the log into the file flushes both to the disk, which holds up whoever waits for the account: seldom.
    connection.execute("PRAGMA wal_autocheckpoint = 10000")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:  # the timeout does not cover this change of mode, and a neighbour may be making it
        try:
            # a write-ahead log needs memory that all processes share, and only those of one machine do
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if over_network else 'WAL'}")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.executescript(SCHEMA)
    return connection
