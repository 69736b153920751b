"""Where the trials of a search are kept: a journal file, SQLite, or a PostgreSQL that many machines share."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from reprogram.errors import ConfigError, RunError
from reprogram.sweeps.plan import Sweep, from_record

JOURNAL = "journal.log"
STORAGE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError)
BUSY_SECONDS = 60  # how long one worker waits for another that writes to SQLite

_PLAN = "sweep"  # name of the attribute of a study


def open_study(sweep: Sweep) -> Study:
    """The study of a sweep, made by whichever worker comes first.

    Raises:
        ConfigError: If the storage cannot be used, or has a study of this name with another definition.
    """
    study = _reach(sweep.storage, Path(sweep.folder), sweep.name, sweep.directions)
    if _PLAN in study.user_attrs:
        kept = kept_sweep(study).definition()
        differing = [key for key, value in sweep.definition().items() if kept[key] != value]
        if differing:
            raise ConfigError(
                f"sweep.name: {sweep.name} is a sweep of another definition (differing: {', '.join(differing)}); "
                "choose another sweep.name"
            )
    study.set_user_attr(_PLAN, json.dumps(asdict(sweep)))
    return study


def load_study(folder: Path, storage: str | None, name: str) -> Study:
    """A study that exists.

    Raises:
        RunError: If there is none.
    """
    if storage is None and not (folder / JOURNAL).is_file():
        raise RunError(f"{folder}: expected the folder of a sweep, but it holds no {JOURNAL}")
    return _reach(storage, folder, name, None)


def kept_sweep(study: Study) -> Sweep:
    """What a study is about.

    Raises:
        RunError: If it is not ours.
    """
    record = study.user_attrs.get(_PLAN)
    if record is None:
        raise RunError(f"{study.study_name}: not a study of reprogram-sweep")
    return from_record(json.loads(record), study.study_name)


def check_url(url: str) -> str:
    """The address as SQLAlchemy takes it.

    Raises:
        ConfigError: If it holds a password, or is of another kind of database.
    """
    try:
        parts, _ = urlsplit(url), urlsplit(url).port
    except ValueError:  # not shown: there may be a password in it
        raise ConfigError(
            "sweep.storage: expected null, sqlite:///FILE or postgresql://USER@HOST:PORT/DATABASE"
        ) from None
    if parts.password is not None or "password" in parse_qs(parts.query):  # it would be written into the records
        raise ConfigError(
            "sweep.storage: expected a URL without a password; put it into the environment variable PGPASSWORD or into "
            "~/.pgpass, where PostgreSQL looks for it"
        )
    kind = parts.scheme.partition("+")[0]
    if kind not in ("sqlite", "postgresql"):
        raise ConfigError(f"sweep.storage: expected null, sqlite:///FILE or postgresql://USER@HOST/DATABASE, got {url}")
    if kind == "sqlite" and parts.path in ("", "/", "/:memory:"):
        raise ConfigError(f"sweep.storage: expected the name of a file, sqlite:///FILE, got {url}, which is in memory")
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _reach(url: str | None, folder: Path, name: str, directions: list[Any] | None) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _connect(url, folder, name, directions)
    except KeyError as error:
        raise RunError(f"{name}: there is no such study in {url or folder}") from error
    except (*STORAGE_ERRORS, ImportError) as error:
        raise ConfigError(f"sweep.storage: {url or folder} cannot be used: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What the database, or Python, said, in one line."""
    said = str(error.__cause__ or error).splitlines()[0]
    return f"{said}; pip install 'reprogram[sweep]'" if isinstance(error, ImportError) else said


@retry(retry=retry_if_exception_type(SQLAlchemyError), stop=stop_after_attempt(3), wait=wait_fixed(1), reraise=True)
def _connect(url: str | None, folder: Path, name: str, directions: list[Any] | None) -> Study:
    """Tried again, because two workers that find an empty database both make its tables."""
    storage = _storage(url, folder)
    if directions is None:
        return optuna.load_study(study_name=name, storage=storage, sampler=_any())
    return optuna.create_study(
        study_name=name, storage=storage, sampler=_any(), directions=directions, load_if_exists=True
    )


def _storage(url: str | None, folder: Path) -> BaseStorage:
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        path = str((folder / JOURNAL).absolute())  # or the lock of a worker that died would point nowhere, and stay
        return JournalStorage(JournalFileBackend(path, _WholeLines(path)))
    address = check_url(url)
    engine: dict[str, Any] = {"poolclass": NullPool}  # none is kept, and perhaps lost, during a long job
    is_file = address.startswith("sqlite")
    # texts come back as texts from a server without an encoding too
    engine["connect_args"] = {"timeout": BUSY_SECONDS} if is_file else {"client_encoding": "utf8"}
    return RDBStorage(address, engine_kwargs=engine)


class _WholeLines(JournalFileSymlinkLock):
    """Who holds it may append; a line that a full disk or a death cut short would make all that follows unreadable."""

    def acquire(self) -> bool:
        held = super().acquire()
        try:
            with open(self._lock_target_file, "r+b") as journal:
                journal.seek(max(0, journal.seek(0, os.SEEK_END) - 1))
                if journal.read() not in (b"", b"\n"):
                    journal.seek(0)
                    journal.truncate(journal.read().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return held


def _any() -> optuna.samplers.BaseSampler:
    """For a study that is only read, or whose sampler is chosen for each job."""
    return optuna.samplers.RandomSampler()
