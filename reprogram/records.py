"""What a run leaves behind, and what a run directory may be used for."""

import errno
import fcntl
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from reprogram.artefact import write_json
from reprogram.errors import RunError, RunFinished

RUN_DIR_VARIABLE = "REPROGRAM_RUN_DIR"  # tells the other processes of a run where the first one writes

# What a disk answers that takes no more.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)

SCHEMA_VERSION = 2
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "scikit-learn", "numpy")


class RunDirectory:
    """One run's folder: config, metrics, predictions, pictures, checkpoints and the shareable program.

    Args:
        path: The folder; ``claim`` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """Written last: its presence means that the run is finished."""
        return self.path / "metrics.json"

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint to resume from, if there is one."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    def read_config(self) -> dict[str, Any]:
        """The configuration the run was started with.

        Raises:
            RunError: If there is none, or it cannot be read.
        """
        if not self.config_file.is_file():
            raise RunError(f"{self.path}: expected a run directory, but it holds no config.yaml")
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config_file}: cannot be read ({error}); put a copy back") from error
        if not isinstance(config, dict):
            raise RunError(f"{self.config_file}: expected a configuration, got {config!r}; put a copy back")
        return config

    def read_metrics(self) -> dict[str, Any]:
        """The contents of ``metrics.json``.

        Raises:
            RunError: If the run is not finished, or the file cannot be read.
        """
        if not self.metrics_file.is_file():
            raise RunError(f"{self.path}: expected a finished run, but it holds no metrics.json; resume={self.path}")
        try:
            return dict(json.loads(self.metrics_file.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise RunError(f"{self.metrics_file}: damaged ({error}); put a copy back") from error

    def check(self, cfg: dict[str, Any]) -> Path | None:
        """Says whether this configuration may use the folder.

        Returns:
            The checkpoint to continue from, or ``None`` for a fresh start.

        Raises:
            RunFinished: If the folder holds a finished run of the same configuration.
            RunError: If it holds a run of another configuration, or a finished one of an unknown.
        """
        finished = self.metrics_file.is_file()
        if not self.config_file.is_file():
            if finished:
                raise RunError(f"run_dir: {self.path} holds a finished run; choose another run_dir")
            return None
        chosen, found = (_comparable(config) for config in (cfg, self.read_config()))
        if found != chosen:
            differing = sorted(key for key in found.keys() | chosen.keys() if found.get(key) != chosen.get(key))
            raise RunError(
                f"run_dir: {self.path} holds {'a finished' if finished else 'an unfinished'} run of another "
                f"configuration (differing: {', '.join(differing)}); "
                f"{'' if finished else f'continue it with resume={self.path}, or '}choose another run_dir"
            )
        if finished:
            raise RunFinished(
                f"run_dir: {self.path} holds a finished run of this configuration; choose another to train again",
                self.read_metrics(),
            )
        return self.last_checkpoint

    def lock(self) -> None:
        """Makes the folder this process's until ``unlock``, or its end however it ends.

        Raises:
            RunError: If another process has it, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.unlock()
            raise RunError(f"run_dir: {self.path} is in use by another process; wait, or choose another") from error
        except OSError as error:
            raise unwritable(self.path, error) from error

    def unlock(self) -> None:
        """Lets others use the folder."""
        if self._lock is not None:
            self._lock.close()

    def claim(self, cfg: dict[str, Any]) -> None:
        """Makes the folder and writes ``config.yaml``; done when everything that can be refused has been checked.

        Raises:
            RunError: If the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            draft = self.config_file.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True), encoding="utf-8")
            os.replace(draft, self.config_file)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def write_metrics(self, record: dict[str, Any]) -> None:
        """Writes ``metrics.json``."""
        write_json(self.metrics_file, {"schema_version": SCHEMA_VERSION, **record})


def unwritable(path: Path, error: OSError) -> RunError:
    """What to say when a run's folder takes no more."""
    return RunError(
        f"run_dir: cannot write to {path}: {error.strerror or error}; choose another run_dir, or see to disk space and "
        "permissions: what is there is kept, and the same command continues"
    )


def finite(history: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """The learning curves as JSON can hold them: an undefined metric is null."""
    return [{key: value if math.isfinite(value) else None for key, value in row.items()} for row in history]


def _comparable(cfg: dict[str, Any]) -> dict[str, Any]:
    """What must not change when a run is continued.

    A query budget may be raised, results be judged otherwise, and as many processes take part as there are now. What is
    null is as good as missing: runs from before there were ``start_from`` and ``protocol.labels`` are continued.
    """
    dropped = ("run_dir", "resume", "paper")
    kept = {key: value for key, value in cfg.items() if key not in dropped and (key, value) != ("start_from", None)}
    protocol = cfg.get("protocol") or {}
    kept["protocol"] = {key: value for key, value in protocol.items() if (key, value) != ("labels", None)}
    kept["evaluation"] = {"baselines": cfg.get("evaluation", {}).get("baselines")}  # queries are planned for them
    for group, others in (("access", ("query_budget",)), ("trainer", ("devices", "num_nodes", "strategy"))):
        kept[group] = {key: value for key, value in cfg.get(group, {}).items() if key not in others}
    return kept


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and commit that the numbers were made with."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "reprogram": version("reprogram"),
        "commit": _commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "command": shlex.join(sys.argv),
    }


def _processor() -> str:
    return f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}"


def _commit() -> str | None:
    """Commit of the checkout the package runs from, marked when files have changed; ``None`` outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
