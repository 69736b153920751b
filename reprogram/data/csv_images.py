"""Target data as a table of image names and labels beside a folder of images."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from reprogram.data.base import TargetData, TaskData, pick_examples
from reprogram.data.labels import name_targets
from reprogram.data.pixels import height_width, read_splits
from reprogram.data.splits import plan_rows
from reprogram.errors import DataError
from reprogram.types import TaskSpec


class CsvData(TargetData):
    """A CSV file with a header, one row per image; the image column is also the id.

    Files are scaled and resized by the rules of `reprogram.data.pixels`.

    Args:
        path: The CSV file.
        image_dir: Folder that the names in the image column are relative to.
        image_column: Column with the name of the image file.
        label_column: Column with the class.
        split_column: Column with ``train``, ``val`` or ``test``; a missing ``val`` or ``test`` is carved out of
            ``train``. ``None``: the split is made here.
        group_column: Column with the patient, lesion or subject; ``None``: unknown, every image on its own.
        suffix: Added to the names, such as ``.jpg`` where the table has none.
        image_size: Side, or height and width, in pixels that every image is resized to.
        name: Name of the task; ``None``: the CSV file's.
        class_names: Order of the classes (of two, the second is the positive one); ``None``: sorted.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        val_fraction: Part of the training rows that becomes ``val`` where there is none.
        test_fraction: The same for ``test``.
        split_seed: Of the split and of the choice under a maximum.
        max_train: At most so many training examples, a stratified choice; ``None``: all.
        max_val: The same for ``val``.
        max_test: The same for ``test``.
        private: Whether no target pixel may leave this machine.
        ordinal: Whether the classes are grades.
        licence: Licence of the data.
        citation: How to cite the data.
    """

    def __init__(
        self,
        path: str,
        image_dir: str,
        image_column: str,
        label_column: str,
        split_column: str | None = None,
        group_column: str | None = None,
        suffix: str = "",
        image_size: int | Sequence[int] = 128,
        name: str | None = None,
        class_names: Sequence[str] | None = None,
        skip_unreadable: bool = False,
        val_fraction: float = 0.15,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        max_train: int | None = None,
        max_val: int | None = None,
        max_test: int | None = None,
        private: bool = True,
        ordinal: bool = False,
        licence: str = "unknown",
        citation: str = "unknown",
    ) -> None:
        self.path = Path(path).expanduser()
        self.image_dir = Path(image_dir).expanduser()
        self.image_column = image_column
        self.label_column = label_column
        self.split_column = split_column
        self.group_column = group_column
        self.suffix = suffix
        self.image_size = height_width(image_size)
        self.name = name or self.path.stem
        self.class_names = class_names
        self.skip_unreadable = skip_unreadable
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.max_train = max_train
        self.max_val = max_val
        self.max_test = max_test
        self.private = private
        self.ordinal = ordinal
        self.licence = licence
        self.citation = citation

    def load(self) -> TaskData:
        """Reads the table, splits it and reads the images.

        Raises:
            DataError: If the table or a column is missing, a cell is empty, or images cannot be read.
        """
        table = self._read_table()
        ids, groups = table[self.image_column], None if self.group_column is None else table[self.group_column]
        targets, class_names = name_targets(table[self.label_column], self.class_names)
        rows = plan_rows(
            targets,
            groups,
            None if self.split_column is None else table[self.split_column],
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            max_train=self.max_train,
            max_val=self.max_val,
            max_test=self.max_test,
            seed=self.split_seed,
        )
        paths = [self.image_dir / f"{name}{self.suffix}" for name in ids]
        read = read_splits(paths, rows, self.image_size, self.skip_unreadable)
        return TaskData(
            spec=TaskSpec(
                name=self.name,
                class_names=class_names,
                image_size=self.image_size,
                ordinal=self.ordinal,
                private=self.private,
                licence=self.licence,
                citation=self.citation,
            ),
            splits={
                name: pick_examples(images, kept, torch.from_numpy(targets), ids, groups)
                for name, (images, kept) in read.items()
            },
        )

    def _read_table(self) -> dict[str, list[str]]:
        wanted = (self.image_column, self.label_column, self.split_column, self.group_column)
        columns = [column for column in wanted if column is not None]
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                records = list(reader)
                header = list(reader.fieldnames or [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path}: expected a CSV file in UTF-8, got: {error}") from error
        missing = [column for column in columns if column not in header]
        if missing or not records:
            raise DataError(f"{self.path}: expected rows of {columns}, got {len(records)} rows of {header}")
        empty = [f"row {number}" for number, record in enumerate(records, 1) if not all(record[c] for c in columns)]
        if empty:
            raise DataError(
                f"{self.path}: {len(empty)} rows have an empty cell in {columns}: {', '.join(empty[:5])}; fill or drop"
            )
        return {column: [record[column].strip() for record in records] for column in columns}
