"""Target data in one NumPy file: images, features or correlations with labels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reprogram.data.base import Images, Rows, Table, TargetData, in_memory
from reprogram.data.embedding import (
    correlation_support,
    correlations_to_images,
    feature_keys,
    feature_reader,
    feature_support,
)
from reprogram.data.labels import array_targets, where_labelled
from reprogram.data.npz_file import Arrays, first_key, read_npz, text_column
from reprogram.data.pixels import stack_to_images
from reprogram.errors import DataError

_VALUE_KEYS = ("images", "features", "corr_int8", "x")
_LABEL_KEYS = ("labels", "targets", "y")
_ATTRIBUTE_KEYS = ("site", "sex", "age")
_UNKNOWN = ("", "nan")
_GROUP_KEYS = ("groups", "group", "patient_id", "subject_id", "lesion_id")


class NpzData(TargetData):
    """A ``.npz`` file of plain arrays with one row per example.

    - values, the first of: ``images`` [N, h, w] or [N, h, w, C], 8 or 16 bits or floats in [0, 1]; ``features``
      [N, F]; ``corr_int8`` [N, n (n - 1) / 2] with ``scale``, the strict upper triangle of correlation matrices; ``x``,
      features if it has two dimensions and images otherwise.
    - labels, the first of ``labels``, ``targets``, ``y``: [N] or [N, 1], integers from 0 or names; -1 or an empty name:
      not labelled (yet).
    - optional: ``class_names`` [K_t], ``split`` [N] (train, val or test), ids (``ids``, ``image_id``, or ``subject_id``
      where it is unique), groups (``groups``, ``group``, ``patient_id``, ``subject_id`` or ``lesion_id``).
    - or the layout of MedMNIST: ``{train,val,test}_images`` and ``{train,val,test}_labels``.

    Vectors become images as `reprogram.data.embedding` says, with constants from the training split.

    Args:
        path: The file.
        name: Name of the task; ``None``: the file's.
        class_names: Order of the classes (of two, the second is the positive one), or the names of labels 0, 1, ...
            where the file has none; ``None``: as the file has it.
        cell: Side (pixels) of the square that shows one feature.
        attributes: Columns that metrics are reported by, beside ``site``, ``sex`` and ``age``, which are used where
            they exist.
        private: Whether no target pixel may leave this machine.
        ordinal: Whether the classes are grades.
        licence: Licence of the data.
        citation: How to cite the data.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        class_names: Sequence[str] | None = None,
        cell: int = 4,
        attributes: Sequence[str] = (),
        private: bool = True,
        ordinal: bool = False,
        licence: str = "unknown",
        citation: str = "unknown",
    ) -> None:
        self.path = Path(path).expanduser()
        self.name = name or self.path.stem
        self.class_names = class_names
        self.cell = cell
        self.attributes = tuple(attributes)
        self.private = private
        self.ordinal = ordinal
        self.licence = licence
        self.citation = citation

    def table(self) -> Table:
        """Reads and checks the file.

        Raises:
            DataError: If the file is missing or broken, or its arrays do not fit together.
        """
        arrays = read_npz(self.path)
        values_key, label_key = first_key(arrays, _VALUE_KEYS), first_key(arrays, _LABEL_KEYS)
        if values_key is None or label_key is None:
            raise DataError(
                f"{self.path}: expected one of {list(_VALUE_KEYS)} and one of {list(_LABEL_KEYS)}, "
                f"or train_images and train_labels, got {sorted(arrays)}"
            )
        id_key, group_key = _id_key(arrays), first_key(arrays, _GROUP_KEYS)
        used = [key for key in (values_key, label_key, id_key, group_key, "split") if key in arrays]
        lengths = {key: len(np.atleast_1d(arrays[key])) for key in used}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{self.path}: expected arrays with one row per example, got lengths {lengths}")
        stored_names = text_column(arrays, "class_names", self.path)
        ids = text_column(arrays, id_key, self.path) or tuple(str(row) for row in range(lengths[label_key]))
        labels = np.atleast_1d(arrays[label_key])
        none = {"U": "", "i": -1}.get(labels.dtype.kind)
        known = np.ones(len(ids), dtype=bool)
        if none is not None:
            known = np.asarray((labels != none).all(axis=tuple(range(1, labels.ndim))))
        targets, class_names = where_labelled(
            known,
            lambda rows: array_targets(
                labels[rows], stored_names, self.class_names, [ids[row] for row in rows], origin=str(self.path)
            ),
            str(self.path),
        )
        groups = text_column(arrays, group_key, self.path)
        unknown = [ids[row] for row, group in enumerate(groups or ()) if group in _UNKNOWN]
        if unknown:
            raise DataError(
                f"{self.path}: {len(unknown)} rows have no {group_key}: {', '.join(unknown[:5])}; fill it in"
            )
        values = arrays[values_key]
        read, support = self._reader(values, values_key, arrays)
        return Table(
            name=self.name,
            class_names=class_names,
            targets=targets,
            ids=ids,
            read=read,
            groups=groups,
            split=text_column(arrays, "split", self.path),
            attributes=self._attributes(arrays, len(targets)),
            support=support,
            keys=feature_keys(values) if values_key == "features" or (values_key == "x" and values.ndim == 2) else None,
            ordinal=self.ordinal,
            private=self.private,
            licence=self.licence,
            citation=self.citation,
            origin=str(self.path),
        )

    def _attributes(self, arrays: Arrays, count: int) -> dict[str, tuple[str, ...]]:
        """The columns known by name, and those asked for."""
        missing = [key for key in self.attributes if key not in arrays]
        if missing:
            raise DataError(f"{self.path}: expected the columns {missing} of data.attributes, got {sorted(arrays)}")
        wanted = dict.fromkeys([*(key for key in _ATTRIBUTE_KEYS if key in arrays), *self.attributes])
        wrong = [key for key in wanted if arrays[key].shape != (count,)]
        if wrong:
            raise DataError(f"{self.path}: expected {wrong} with one value per example, {count} of them")
        texts = {key: text_column(arrays, key, self.path) or () for key in wanted}
        return {key: tuple("" if text in _UNKNOWN else text for text in column) for key, column in texts.items()}

    def _reader(
        self, values: NDArray[Any], key: str, arrays: Arrays
    ) -> tuple[Callable[[Mapping[str, Rows]], dict[str, tuple[Images, list[int]]]], Tensor | None]:
        is_matrix = key in ("features", "corr_int8") or (key == "x" and values.ndim == 2)
        if is_matrix and (values.ndim != 2 or values.dtype.kind not in "biuf"):
            raise DataError(f"{self.path}: expected {key} of numbers [N, F], got {values.dtype} {list(values.shape)}")
        if key == "corr_int8":
            if "scale" not in arrays or arrays["scale"].size != 1:
                raise DataError(f"{self.path}: expected one number `scale` beside corr_int8; store it")
            scale = np.float32(arrays["scale"].item())
            return in_memory(correlations_to_images(values * scale)), correlation_support(values.shape[1])
        if is_matrix:
            return feature_reader(values, self.cell), feature_support(values.shape[1], self.cell)
        return in_memory(stack_to_images(values)), None


def _id_key(arrays: Arrays) -> str | None:
    key = first_key(arrays, ("ids", "image_id"))
    if key is None and "subject_id" in arrays:
        subjects = arrays["subject_id"]
        key = "subject_id" if len(np.unique(subjects)) == subjects.size else None  # several rows each: only a group
    return key
