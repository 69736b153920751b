"""What a round leaves on disk: enough to go on days later, on another machine."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from reprogram.artefact import write_json
from reprogram.errors import RunError

RESULTS = {"target", "labels", "confidence", "propagated", "val", "test"}
"""Of ``round.json``, at least."""

PROPAGATED = "propagated"
"""Origin of a label that nobody gave."""


class Label(NamedTuple):
    """One row of ``labels.csv``; the trust of a label that somebody gave is 1."""

    id: str
    label: str
    trust: float
    origin: str
    round: int


@dataclass(frozen=True)
class Round:
    """The folder of one round; every file in it is whole or not there.

    ``chosen.csv`` the examples to label · ``sheet.csv`` and ``page.html`` for a person · ``skipped.csv`` what cannot be
    labelled · ``labels.csv`` all labels so far · ``run/`` the training · ``round.json`` the result.

    Args:
        number: From 1.
        path: The folder.
    """

    number: int
    path: Path

    @property
    def run(self) -> Path:
        """Directory of the training run."""
        return self.path / "run"

    @property
    def labels_file(self) -> Path:
        """What the round is trained on."""
        return self.path / "labels.csv"

    def chosen(self) -> list[str] | None:
        """Ids to label, in the order they were chosen; ``None``: not chosen yet."""
        return self._ids("chosen.csv")

    def choose(self, ids: Sequence[str]) -> None:
        """Writes them."""
        write_rows(self.path / "chosen.csv", ("id",), ((name,) for name in ids))

    def skipped(self) -> list[str]:
        """Ids that cannot be labelled; asked for once the round has its labels.

        Raises:
            RunError: If the file is gone: what it lists would be chosen again.
        """
        ids = self._ids("skipped.csv")
        if ids is None:
            raise RunError(f"{self.path / 'skipped.csv'}: is missing beside labels.csv; put a copy back")
        return ids

    def labels(self) -> list[Label] | None:
        """All labels at the end of the round, those propagated included; ``None``: they are not there yet.

        Raises:
            RunError: If the file was changed by somebody.
        """
        rows = read_rows(self.labels_file, Label._fields)
        try:
            return None if rows is None else [Label(row[0], row[1], float(row[2]), row[3], int(row[4])) for row in rows]
        except ValueError as error:
            raise RunError(f"{self.labels_file}: {error}; it is not for editing, put a copy back") from error

    def label(self, labels: Iterable[Label], skipped: Sequence[str] = ()) -> None:
        """Writes them; from here on the sheet is not read again."""
        write_rows(self.path / "skipped.csv", ("id",), ((name,) for name in skipped))
        write_rows(self.labels_file, Label._fields, labels)

    def record(self) -> dict[str, Any] | None:
        """The result; ``None``: the round has not ended."""
        try:
            found: dict[str, Any] = json.loads((self.path / "round.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / 'round.json'}: cannot be read ({error}); put a copy back") from error
        if not isinstance(found, dict) or not found.keys() >= RESULTS:
            raise RunError(f"{self.path / 'round.json'}: expected the result of a round; put a copy back")
        return found

    def end(self, record: dict[str, Any]) -> None:
        """Writes the result."""
        write_json(self.path / "round.json", record)

    def _ids(self, name: str) -> list[str] | None:
        rows = read_rows(self.path / name, ("id",))
        return None if rows is None else [row[0] for row in rows]


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes a CSV file that nobody ever sees half, and its folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text.getvalue(), encoding="utf-8", newline="")
    draft.replace(path)


def read_rows(path: Path, columns: Sequence[str]) -> list[list[str]] | None:
    """Rows of a file that ``write_rows`` wrote; ``None``: there is none.

    Raises:
        RunError: If it cannot be read, or was changed by somebody.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); put a copy back") from error
    if header != list(columns) or any(len(row) != len(columns) for row in rows):
        raise RunError(f"{path}: expected the columns {', '.join(columns)}; it is not for editing, put a copy back")
    return rows
