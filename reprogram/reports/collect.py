"""Finds finished runs and reads what they left behind; a run that cannot be read is named, with the reason."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from reprogram.errors import ConfigError, DataError, ReprogramError, RunError
from reprogram.evaluation.predictions import Predictions, read_csv
from reprogram.records import SCHEMA_VERSION, RunDirectory

OURS = "reprogrammed"  # beside the names of the baselines

_PATH = re.compile(r"(?<![\w.}-])/\S*/")


class _Data(BaseModel):
    licence: str
    private: bool
    classes: list[str]
    sizes: dict[str, int]


class _Record(BaseModel):
    """What of ``metrics.json`` a report reads without asking."""

    task: str
    source: str
    seed: int
    test: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    data: _Data
    dimension: int
    queries: dict[str, float | None]
    timing: dict[Literal["train_s", "evaluate_s", "total_s"], float]
    environment: dict[str, Any]
    label_map: list[tuple[str, str, float]]
    operating_points: dict[str, dict[str, Any]]


class _Config(BaseModel):
    """The same of ``config.yaml``."""

    access: dict[str, Any]
    program: dict[str, Any]
    mapping: dict[str, Any]
    protocol: dict[str, Any]
    evaluation: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """What one finished run left behind.

    Args:
        path: Its folder.
        config: The resolved configuration.
        record: Contents of ``metrics.json``.
        classes: Names of the target classes.
        tested: Test predictions by classifier: ``reprogrammed``, then the baselines; all of the same rows.
    """

    path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    classes: tuple[str, ...]
    tested: dict[str, Predictions]

    @property
    def name(self) -> str:
        """Short, and without what is above the sweep's folder."""
        return "/".join(self.path.parts[-2:])


def collect(patterns: str | Sequence[str]) -> tuple[list[Run], dict[Path, str]]:
    """Reads every run that the patterns name.

    Args:
        patterns: Run directories, or folders that hold some, or patterns of these.

    Returns:
        The runs, and why each of the other folders is none.

    Raises:
        ConfigError: If nothing matches.
    """
    wanted = [str(pattern) for pattern in (patterns if isinstance(patterns, list | tuple) else [patterns])]
    matches = [found for pattern in wanted for found in _matches(Path(pattern).expanduser())]
    folders = [folder for match in matches if match.is_dir() for folder in _runs_of(match)]
    if not folders:
        raise ConfigError(f"no run directory matches {', '.join(wanted)}; quote the pattern, such as 'runs/sweep_x/*'")
    runs, skipped = [], {}
    for folder in {path.resolve(): path for path in folders}.values():
        try:
            runs.append(read_run(folder))
        except ReprogramError as error:
            skipped[folder] = str(error).removeprefix(f"{folder}: ").replace(f"{folder}/", "")
    return runs, skipped


def read_run(path: Path) -> Run:
    """Reads one run.

    Raises:
        RunError: If it is not finished, damaged, or of another version.
        DataError: If its predictions cannot be read.
    """
    directory = RunDirectory(path)
    config = directory.read_config()
    record = directory.read_metrics()
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        age = "a newer" if isinstance(version, int) and version > SCHEMA_VERSION else "an older"
        raise RunError(f"{path}: made by {age} version; train again")
    for file, content, kind in ((directory.metrics_file, record, _Record), (directory.config_file, config, _Config)):
        try:
            kind.model_validate(content)
        except ValidationError as error:
            places = [".".join(map(str, problem["loc"])) for problem in error.errors()]
            raise RunError(f"{file}: damaged ({', '.join(places[:5])})") from error
    files = {OURS: path / "predictions.csv", **{name: path / f"predictions_{name}.csv" for name in record["baselines"]}}
    tables = {name: _test_of(file) for name, file in files.items()}
    ours, classes = tables[OURS]
    for name, (found, labels) in tables.items():
        if found.ids != ours.ids or labels != classes:
            raise DataError(f"{files[name]}: damaged (expected the {len(ours.ids)} test rows of predictions.csv)")
    return Run(path, config, record, classes, {name: found for name, (found, _) in tables.items()})


def without_folders(text: str) -> str:
    """A text without the folders of this machine, which are nobody's business."""
    return _PATH.sub("", text)


def _matches(pattern: Path) -> list[Path]:
    """An existing path as it is, whatever signs its name holds, or those that a pattern fits."""
    return [pattern] if pattern.exists() else [Path(found) for found in sorted(glob.glob(str(pattern)))]


def _runs_of(folder: Path) -> list[Path]:
    """The folder itself, or the runs right below it."""
    below = sorted(file.parent for file in folder.glob("*/config.yaml"))
    return below if below and not (folder / "config.yaml").is_file() else [folder]


def _test_of(file: Path) -> tuple[Predictions, tuple[str, ...]]:
    splits, classes = read_csv(file)
    for found in splits:
        if found.split == "test":
            return found, classes
    raise DataError(f"{file}: damaged (no row of the test split)")
