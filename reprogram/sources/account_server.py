"""An account in a PostgreSQL database: of processes on several machines, where a SQLite file must not lie."""

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from reprogram.errors import ConfigError, RunError
from reprogram.sources.account_file import TABLES

SCHEME = "postgresql://"
LOCK = 7221_4013  # of the database: one transaction at a time, as SQLite has it; any number, as long as it stays
PATIENCE = 10  # seconds to connect


class AccountServer:
    """Rows and transactions: as ``AccountFile``.

    Args:
        url: ``postgresql://user@host:port/database``; the password comes from ``PGPASSWORD`` or ``~/.pgpass``, as
            PostgreSQL's own programs have it.

    Raises:
        ConfigError: If there is a password in the address, or the package psycopg is missing.
        RunError: By every method, if the database cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            # also one with a slash, which would end the address for urlsplit
            has_password = ":" in url.removeprefix(SCHEME).rpartition("@")[0] or "password" in parts.query
        except ValueError as error:
            raise ConfigError(f"access.ledger: expected {SCHEME}user@host/database ({error})") from error
        if has_password:  # not shown: the address is written into the run's configuration
            raise ConfigError("access.ledger: expected no password in the address; set PGPASSWORD, or use ~/.pgpass")
        try:
            import psycopg
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"access.ledger={SCHEME}...: expected the package psycopg; install it with pip install "
                "'reprogram[postgres]'"
            ) from error
        self.url, self._psycopg = url, psycopg
        self._connections: dict[int, Any] = {}  # by process: a forked child leaves its parent's alone
        self._one_thread = threading.RLock()
        weakref.finalize(self, _hang_up, self._connections)

    def close(self) -> None:
        """Hangs up until it is used again."""
        _hang_up(self._connections)

    def rows(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        with self._connection() as connection:
            found: list[tuple[Any, ...]] = connection.execute(_translated(statement), arguments).fetchall()
            return found

    @contextmanager
    def transaction(self) -> Iterator["_Transaction"]:
        """The right to write, from the start; undone by an error."""
        with self._connection() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            yield _Transaction(connection)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """This process's connection; what PostgreSQL refuses becomes our error."""
        process = os.getpid()
        with self._one_thread:
            try:
                if process not in self._connections:
                    self._connections[process] = self._connect()
                yield self._connections[process]
            except self._psycopg.Error as error:
                if process in self._connections and self._connections[process].broken:
                    self.close()  # the next use connects anew
                raise RunError(
                    f"access.ledger: expected a PostgreSQL database that can be written at {self.url}, got "
                    f"'{str(error).strip()}'; see to server, address and password (PGPASSWORD or ~/.pgpass), and give "
                    "the same command again"
                ) from error

    def _connect(self) -> Any:
        connection = self._psycopg.connect(self.url, autocommit=True, connect_timeout=PATIENCE, client_encoding="utf8")
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            connection.execute("SET LOCAL client_min_messages = warning")  # that the tables are there is no news
            connection.execute(TABLES.replace("BLOB", "BYTEA"))
        return connection


class _Transaction:
    """A connection that takes SQLite's question marks."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str, arguments: Sequence[object] = ()) -> Any:
        return self._connection.execute(_translated(statement), arguments)

    def executemany(self, statement: str, rows: Any) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(statement), list(rows))


def _hang_up(connections: dict[int, Any]) -> None:
    connection = connections.pop(os.getpid(), None)
    if connection is not None:
        connection.close()


def _translated(statement: str) -> str:
    return statement.replace("?", "%s")
