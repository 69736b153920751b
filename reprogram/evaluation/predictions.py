"""Class probabilities of one split, and the CSV file they are kept in."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import DataError, ShapeError

_SUM_TOLERANCE = 1e-4  # float32 probabilities, rounded anywhere on their way, still pass


@dataclass(frozen=True, eq=False)
class Predictions:
    """Targets and class probabilities of the examples of one split.

    Args:
        split: ``train``, ``val`` or ``test``.
        ids: One name per example, as in the data.
        targets: True classes.
        scores: Class probabilities: each row sums to one.
        groups: Patient, lesion or subject of each example; ``None`` when every example stands for itself.

    Shapes:
        targets: [N] int64 in 0..K_t-1.
        scores: [N, K_t] float64 in [0, 1].

    Raises:
        ShapeError: If a shape or a dtype is another one, or the lengths disagree.
        DataError: If there is no example, a target is no class, or a row of scores is no distribution (NaN included).
    """

    split: str
    ids: tuple[str, ...]
    targets: NDArray[np.int64]
    scores: NDArray[np.float64]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses what no metric could be computed from."""
        where = f"Predictions of split '{self.split}'"
        if self.scores.ndim != 2 or self.scores.shape[1] < 2 or self.scores.dtype != np.float64:
            raise ShapeError(
                f"{where}: expected scores [N, K_t >= 2] float64, got {list(self.scores.shape)} {self.scores.dtype}"
            )
        rows, classes = self.scores.shape
        if self.targets.shape != (rows,) or self.targets.dtype != np.int64:
            raise ShapeError(
                f"{where}: expected targets [{rows}] int64, got {list(self.targets.shape)} {self.targets.dtype}"
            )
        for name, values in (("ids", self.ids), ("groups", self.groups)):
            if values is not None and len(values) != rows:
                raise ShapeError(f"{where}: expected {rows} {name}, one per row of scores, got {len(values)}")
        if rows == 0:
            raise DataError(f"{where}: expected at least one example, got none; check the split of the data")
        if self.targets.min() < 0 or self.targets.max() >= classes:
            raise DataError(
                f"{where}: expected targets in 0..{classes - 1}, got {self.targets.min()}..{self.targets.max()}"
            )
        # Written so that NaN, which compares false, is refused too.
        proper = ((self.scores >= 0) & (self.scores <= 1 + _SUM_TOLERANCE)).all(axis=1)
        proper &= np.abs(self.scores.sum(axis=1) - 1) <= _SUM_TOLERANCE
        if not proper.all():
            row = int(np.argmin(proper))
            raise DataError(
                f"{where}: expected probabilities in [0, 1] that sum to one, got {self.scores[row].tolist()} for "
                f"'{self.ids[row]}' (and {int((~proper).sum()) - 1} more); apply softmax before"
            )

    @property
    def num_classes(self) -> int:
        """K_t."""
        return int(self.scores.shape[1])


def write_csv(path: Path, predictions: Sequence[Predictions], class_names: Sequence[str]) -> None:
    """Writes ``id, split, target, score_<class name>...``, one row per example; nobody ever sees half a file.

    Scores keep their full precision; groups are not written.

    Args:
        path: The file, replaced when it exists; its folder must exist.
        predictions: One entry per split.
        class_names: K_t names, in the order of the score columns.

    Raises:
        ShapeError: If a split has another number of classes than there are names.
        DataError: If two entries are of the same split, so that they could not be told apart again.
    """
    splits = [entry.split for entry in predictions]
    if len(set(splits)) != len(splits):
        raise DataError(f"{path}: expected every split once, got {splits}")
    for entry in predictions:
        if entry.num_classes != len(class_names):
            raise ShapeError(
                f"{path}: expected {len(class_names)} scores per example, one per class name, "
                f"got {entry.num_classes} in split '{entry.split}'"
            )
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "split", "target", *(f"score_{name}" for name in class_names)])
            for entry in predictions:
                for name, target, scores in zip(entry.ids, entry.targets, entry.scores.tolist(), strict=True):
                    writer.writerow([name, entry.split, class_names[target], *map(repr, scores)])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_csv(path: Path) -> tuple[list[Predictions], tuple[str, ...]]:
    """Reads what ``write_csv`` wrote.

    Returns:
        One entry per split, in the order of the file and without groups, and the class names.

    Raises:
        DataError: If the file is missing or not such a table; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header[:3] != ["id", "split", "target"] or not all(name.startswith("score_") for name in header[3:]):
                raise DataError(f"{path}: expected columns id, split, target, score_<class name>..., got {header}")
            class_names = tuple(name.removeprefix("score_") for name in header[3:])
            index = {name: position for position, name in enumerate(class_names)}
            splits: dict[str, list[tuple[str, int, list[float]]]] = {}
            for row in reader:
                try:
                    name, split, target, *scores = row
                    if len(scores) != len(class_names):
                        raise ValueError(f"{len(row)} cells")
                    splits.setdefault(split, []).append((name, index[target], [float(score) for score in scores]))
                except (ValueError, KeyError) as error:
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected an id, a split, one of the classes "
                        f"{list(class_names)} and {len(class_names)} numbers, got {row}"
                    ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected the predictions.csv of a finished run") from error
    return [
        Predictions(
            split,
            tuple(name for name, _, _ in rows),
            np.array([target for _, target, _ in rows], dtype=np.int64),
            np.array([scores for _, _, scores in rows], dtype=np.float64),
        )
        for split, rows in splits.items()
    ], class_names
