"""Target data as a table of image names and labels beside a folder of images."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reprogram.data.base import Table, TargetData
from reprogram.data.labels import name_targets, pattern_groups, where_labelled
from reprogram.data.pixels import height_width, read_splits
from reprogram.errors import ConfigError, DataError


class CsvData(TargetData):
    """A CSV file with a header, one row per image; the image column is also the id.

    Files are scaled and resized by the rules of `reprogram.data.pixels`.

    Args:
        path: The CSV file.
        image_dir: Folder that the names in the image column are relative to.
        image_column: Column with the name of the image file.
        label_column: Column with the class; a cell may be empty: that row is not labelled (yet).
        split_column: Column with ``train``, ``val`` or ``test``; a missing ``val`` or ``test`` is carved out of
            ``train``. ``None``: the split is made here.
        group_column: Column with the patient, lesion or subject; ``None``: unknown, every image on its own.
        group_pattern: Regular expression found in an id, whose first group is the patient, lesion or subject, instead
            of a column; ``None``: none.
        suffix: Added to the names, such as ``.jpg`` where the table has none.
        image_size: Side, or height and width, in pixels that every image is resized to.
        name: Name of the task; ``None``: the CSV file's.
        label_names: Class name of each stored label, which several labels may share; ``None``: as stored.
        class_names: Order of the classes (of two, the second is the positive one); ``None``: as in ``label_names``, or
            else sorted.
        attributes: Column of each attribute that metrics are reported by, such as ``{age: age_approx}``; its cells may
            be empty. ``None``: none.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.
        ordinal: Whether the classes are grades.
        licence: Licence of the data.
        citation: How to cite the data.

    Raises:
        ConfigError: If there are both a group column and a group pattern.
    """

    def __init__(
        self,
        path: str,
        image_dir: str,
        image_column: str,
        label_column: str,
        split_column: str | None = None,
        group_column: str | None = None,
        group_pattern: str | None = None,
        suffix: str = "",
        image_size: int | Sequence[int] = 128,
        name: str | None = None,
        label_names: Mapping[str | int, str] | None = None,
        class_names: Sequence[str] | None = None,
        attributes: Mapping[str, str] | None = None,
        skip_unreadable: bool = False,
        private: bool = True,
        ordinal: bool = False,
        licence: str = "unknown",
        citation: str = "unknown",
    ) -> None:
        if group_column is not None and group_pattern is not None:
            raise ConfigError(
                f"data: expected one of group_column and group_pattern, got {group_column!r} and {group_pattern!r}"
            )
        self.path = Path(path).expanduser()
        self.image_dir = Path(image_dir).expanduser()
        self.image_column = image_column
        self.label_column = label_column
        self.split_column = split_column
        self.group_column = group_column
        self.group_pattern = group_pattern
        self.suffix = suffix
        self.image_size = height_width(image_size)
        self.name = name or self.path.stem
        self.label_names = {str(label): name for label, name in (label_names or {}).items()}
        self.class_names = class_names
        self.attributes = attributes or {}
        self.skip_unreadable = skip_unreadable
        self.private = private
        self.ordinal = ordinal
        self.licence = licence
        self.citation = citation

    def table(self) -> Table:
        """Reads the table.

        Raises:
            DataError: If the table or a column is missing, a cell is empty, or images cannot be read.
        """
        wanted = (self.image_column, self.split_column, self.group_column)
        filled = [column for column in wanted if column is not None]
        columns = read_columns(self.path, filled, may_be_empty=[self.label_column, *self.attributes.values()])
        ids = columns[self.image_column]
        labels = [self.label_names.get(label, label) for label in columns[self.label_column]]
        class_names = self.class_names or list(dict.fromkeys(self.label_names.values())) or None
        targets, class_names = where_labelled(
            np.array([label != "" for label in labels]),
            lambda rows: name_targets(
                [labels[row] for row in rows], class_names, [ids[row] for row in rows], origin=str(self.path)
            ),
            str(self.path),
        )
        groups = None if self.group_column is None else columns[self.group_column]
        if self.group_pattern is not None:
            groups = pattern_groups(ids, self.group_pattern)
        paths = [self.image_dir / f"{name}{self.suffix}" for name in ids]
        return Table(
            name=self.name,
            class_names=class_names,
            targets=targets,
            ids=ids,
            read=lambda rows: read_splits(
                paths, self.image_dir, rows, self.image_size, self.skip_unreadable, self.name
            ),
            groups=groups,
            split=None if self.split_column is None else columns[self.split_column],
            attributes={name: columns[column] for name, column in self.attributes.items()},
            ordinal=self.ordinal,
            private=self.private,
            licence=self.licence,
            citation=self.citation,
            origin=str(self.path),
        )


def read_columns(path: Path, filled: Sequence[str], may_be_empty: Sequence[str] = ()) -> dict[str, list[str]]:
    """Columns of a CSV file with a header, without the spaces around their cells.

    Raises:
        DataError: If the file or a column is missing, there is no row, or a cell of the ``filled`` columns is empty.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            records = list(reader)
            header = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8, got: {error}") from error
    wanted = list(dict.fromkeys([*filled, *may_be_empty]))
    missing = [column for column in wanted if column not in header]
    if missing or not records:
        raise DataError(
            f"{path}: expected rows of {wanted}, got {len(records)} rows of {header}"
            + (f"; there is no column {missing}" if missing else "")
        )
    columns = {column: [(record[column] or "").strip() for record in records] for column in wanted}
    empty = [f"row {row + 1}" for row in range(len(records)) if not all(columns[column][row] for column in filled)]
    if empty:
        raise DataError(
            f"{path}: {len(empty)} rows have an empty cell in {list(filled)}: {', '.join(empty[:5])}; fill or drop"
        )
    return columns
