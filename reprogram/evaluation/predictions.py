"""Class probabilities of one split, and the CSV file they are kept in."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        attributes: What else is known of each example (site, sex, age, ...) as text, empty where unknown.

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
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
        for name, values in (("ids", self.ids), ("groups", self.groups), *self.attributes.items()):
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

    def subset(self, rows: Sequence[int]) -> "Predictions":
        """The examples at these rows, in this order (row numbers, not a mask)."""

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in rows)

        return Predictions(
            self.split,
            pick(self.ids),
            self.targets[rows],
            self.scores[rows],
            groups=None if self.groups is None else pick(self.groups),
            attributes={name: pick(values) for name, values in self.attributes.items()},
        )


def write_csv(path: Path, predictions: Sequence[Predictions], class_names: Sequence[str]) -> None:
    """Writes ``id, split, target[, group][, meta_<attribute>...], score_<class name>...``, one row per example.

    Scores keep their full precision. A group is empty in a split that has none. Nobody ever sees half a file.

    Args:
        path: The file, replaced when it exists; its folder must exist.
        predictions: One entry per split.
        class_names: K_t names, in the order of the score columns.

    Raises:
        ShapeError: If a split has another number of classes than there are names.
        DataError: If two entries are of the same split, so that they could not be told apart again, or have other
            attributes.
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
    attributes = list(predictions[0].attributes) if predictions else []
    for entry in predictions:
        if set(entry.attributes) != set(attributes):
            raise DataError(
                f"{path}: expected the attributes {attributes} in every split, got {list(entry.attributes)} "
                f"in '{entry.split}'"
            )
    grouped = any(entry.groups is not None for entry in predictions)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_columns(grouped, attributes, class_names))
            for entry in predictions:
                texts = [entry.groups or ("",) * len(entry.ids)] if grouped else []
                texts += [entry.attributes[name] for name in attributes]
                names = [class_names[target] for target in entry.targets]
                for name, target, scores, *row in zip(entry.ids, names, entry.scores.tolist(), *texts, strict=True):
                    writer.writerow([name, entry.split, target, *row, *map(repr, scores)])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_csv(path: Path) -> tuple[list[Predictions], tuple[str, ...]]:
    """Reads what ``write_csv`` wrote.

    Returns:
        One entry per split, in the order of the file, and the class names.

    Raises:
        DataError: If the file is missing or not such a table; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            grouped = header[3:4] == ["group"]
            attributes, class_names = (
                tuple(name.removeprefix(prefix) for name in header[3 + grouped :] if name.startswith(prefix))
                for prefix in ("meta_", "score_")
            )
            if header != _columns(grouped, attributes, class_names):
                raise DataError(
                    f"{path}: expected columns id, split, target[, group][, meta_<attribute>...], "
                    f"score_<class name>..., got {header}"
                )
            index = {name: position for position, name in enumerate(class_names)}
            first_score = len(header) - len(class_names)
            splits: dict[str, list[tuple[str, int, list[str], list[float]]]] = {}
            for row in reader:
                try:
                    if len(row) != len(header):
                        raise ValueError(f"{len(row)} cells")
                    name, split, target, *texts = row[:first_score]
                    scores = [float(score) for score in row[first_score:]]
                    splits.setdefault(split, []).append((name, index[target], texts, scores))
                except (ValueError, KeyError) as error:
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {len(header)} cells, among them one of the classes "
                        f"{list(class_names)} and {len(class_names)} numbers, got {len(row)} others"
                    ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected the predictions.csv of a finished run") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected the predictions.csv of a finished run, got: {error}") from error
    found = []
    for split, rows in splits.items():
        ids, targets, texts_of_rows, scores_of_rows = zip(*rows, strict=True)
        columns = list(zip(*texts_of_rows, strict=True))
        found.append(
            Predictions(
                split,
                ids,
                np.array(targets, dtype=np.int64),
                np.array(scores_of_rows, dtype=np.float64),
                groups=columns[0] if grouped and any(columns[0]) else None,
                attributes=dict(zip(attributes, columns[grouped:], strict=True)),
            )
        )
    return found, class_names


def _columns(grouped: bool, attributes: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """The prefixes keep attributes and classes apart from the columns before them, whatever they are called."""
    return [
        *("id", "split", "target", *(["group"] if grouped else [])),
        *(f"meta_{name}" for name in attributes),
        *(f"score_{name}" for name in class_names),
    ]
