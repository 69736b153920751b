"""The training examples that are labelled, from a file: their labels take the place of the data's own."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from reprogram.data.base import Examples
from reprogram.data.labels import first_ids
from reprogram.errors import DataError


def labelled(train: Examples, path: str | Path, class_names: Sequence[str]) -> Examples:
    """The labelled ones of the training examples, in their old order, with the labels of a file.

    The file is a CSV in UTF-8 with a header: ``id``, ``label`` (the class name) and, if there is such a column,
    ``trust`` in (0, 1], how far the label is trusted (an empty cell: fully). Other columns are left alone.

    Args:
        train: All training rows, labelled or not.
        path: The file.
        class_names: Of the task.

    Raises:
        DataError: If the file is missing or unreadable, has no rows, lacks a column, names an id twice, or one that is
            no training row, or a class that there is not, or a trust is out of range.
    """
    place, columns = Path(path), _read(Path(path))
    row_of, index_of = ({name: at for at, name in enumerate(names)} for names in (train.ids, class_names))
    ids = [name if name in row_of else name.strip() for name in columns["id"]]
    labels = [name if name in index_of else name.strip() for name in columns["label"]]
    names = list(class_names)
    _refuse(place, ids, [count > 1 for count in map(Counter(ids).__getitem__, ids)], "each id once", "keep one of each")
    unknown = [name not in row_of for name in ids]
    remedy = "leave them out; those that protocol gives to val or test cannot be trained on"
    _refuse(place, ids, unknown, f"ids of the {len(train)} training rows", remedy)
    remedy = "correct them: the class name, not its number"
    _refuse(place, ids, [name not in index_of for name in labels], f"labels among {names}", remedy, labels)
    trusts = [_trust(text) for text in columns["trust"]]
    remedy = "correct them; an empty cell trusts fully"
    wrong = [trust is None for trust in trusts]
    _refuse(place, ids, wrong, "trust as a number in (0, 1]", remedy, columns["trust"])
    listed = {row_of[name]: at for at, name in enumerate(ids)}
    rows = sorted(listed)
    order = [listed[row] for row in rows]
    trust = torch.tensor([trusts[at] for at in order], dtype=torch.float32)
    return replace(
        train.subset(rows),
        targets=torch.tensor([index_of[labels[at]] for at in order], dtype=torch.int64),
        trust=trust if bool((trust < 1).any()) else None,
    )


def _read(path: Path) -> dict[str, list[str]]:
    """The three columns as they are, that of the trust empty where there is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            records = list(reader)
            header = list(reader.fieldnames or [])
    except FileNotFoundError as error:
        raise DataError(
            f"protocol.labels: no such file: {path}; put it back, or set protocol.labels to where it is now"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"protocol.labels: {path}: expected a CSV file in UTF-8, got: {error}") from error
    missing = [column for column in ("id", "label") if column not in header]
    if missing or not records:
        raise DataError(
            f"protocol.labels: {path}: expected rows of id,label[,trust], got {len(records)} rows of {header}; "
            + (f"add the column {', '.join(missing)}" if missing else "label at least one training example")
        )
    return {column: [record.get(column) or "" for record in records] for column in ("id", "label", "trust")}


def _trust(text: str) -> float | None:
    """The number of a cell, or ``None`` if it cannot be a trust."""
    try:
        trust = float(text) if text.strip() else 1.0
    except ValueError:
        return None
    return trust if np.float32(trust) > 0 and trust <= 1 else None


def _refuse(
    path: Path, ids: Sequence[str], wrong: Sequence[bool], expected: str, remedy: str, got: Sequence[str] | None = None
) -> None:
    rows = [row for row, one in enumerate(wrong) if one]
    if rows:
        values = "" if got is None else f"{list(dict.fromkeys(got[row] for row in rows))[:5]} in "
        raise DataError(f"protocol.labels: {path}: expected {expected}, got {values}{first_ids(rows, ids)}; {remedy}")
