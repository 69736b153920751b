"""Target data in one NumPy file: images, features or correlations with labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogram.data.base import SPLITS, TargetData, TaskData, pick_examples
from reprogram.data.embedding import (
    correlation_support,
    correlations_to_images,
    feature_range,
    feature_support,
    features_to_images,
)
from reprogram.data.labels import array_targets
from reprogram.data.npz_file import Arrays, first_key, read_npz, text_column
from reprogram.data.pixels import stack_to_images
from reprogram.data.splits import plan_rows
from reprogram.errors import DataError
from reprogram.types import TaskSpec

_VALUE_KEYS = ("images", "features", "corr_int8", "x")
_LABEL_KEYS = ("labels", "targets", "y")
_GROUP_KEYS = ("groups", "group", "patient_id", "subject_id", "lesion_id")


class NpzData(TargetData):
    """A ``.npz`` file of plain arrays with one row per example.

    - values, the first of: ``images`` [N, h, w] or [N, h, w, C], 8 or 16 bits or floats in [0, 1]; ``features``
      [N, F]; ``corr_int8`` [N, n (n - 1) / 2] with ``scale``, the strict upper triangle of correlation matrices; ``x``,
      features if it has two dimensions and images otherwise.
    - labels, the first of ``labels``, ``targets``, ``y``: [N] or [N, 1], integers from 0 or names.
    - optional: ``class_names`` [K_t], ``split`` [N] (train, val or test), ids (``ids``, ``image_id``, or ``subject_id``
      where it is unique), groups (``groups``, ``group``, ``patient_id``, ``subject_id`` or ``lesion_id``).
    - or the layout of MedMNIST: ``{train,val,test}_images`` and ``{train,val,test}_labels``.

    Vectors become images as `reprogram.data.embedding` says, with constants from the training split.

    Args:
        path: The file.
        name: Name of the task; ``None``: the file's.
        class_names: Order of the classes (of two, the second is the positive one), or the names of labels 0, 1, ...
            where the file has none; ``None``: as the file has it.
        val_fraction: Part of the training rows that becomes ``val`` where the file has no such split.
        test_fraction: The same for ``test``.
        split_seed: Of the split and of the choice under a maximum.
        max_train: At most so many training examples, a stratified choice; ``None``: all.
        max_val: The same for ``val``.
        max_test: The same for ``test``.
        cell: Side (pixels) of the square that shows one feature.
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
        val_fraction: float = 0.15,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        max_train: int | None = None,
        max_val: int | None = None,
        max_test: int | None = None,
        cell: int = 4,
        private: bool = True,
        ordinal: bool = False,
        licence: str = "unknown",
        citation: str = "unknown",
    ) -> None:
        self.path = Path(path).expanduser()
        self.name = name or self.path.stem
        self.class_names = class_names
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.max_train = max_train
        self.max_val = max_val
        self.max_test = max_test
        self.cell = cell
        self.private = private
        self.ordinal = ordinal
        self.licence = licence
        self.citation = citation

    def load(self) -> TaskData:
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
        targets, class_names = array_targets(arrays[label_key], stored_names, self.class_names)
        groups = text_column(arrays, group_key, self.path)
        rows = plan_rows(
            targets,
            groups,
            text_column(arrays, "split", self.path),
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            max_train=self.max_train,
            max_val=self.max_val,
            max_test=self.max_test,
            seed=self.split_seed,
        )
        picked = {name: arrays[values_key][rows[name]] for name in SPLITS}
        images, support = self._to_images(picked, values_key, arrays)
        ids = text_column(arrays, id_key, self.path) or [str(row) for row in range(len(targets))]
        return TaskData(
            spec=TaskSpec(
                name=self.name,
                class_names=class_names,
                image_size=(images["train"].shape[2], images["train"].shape[3]),
                support=support,
                ordinal=self.ordinal,
                private=self.private,
                licence=self.licence,
                citation=self.citation,
            ),
            splits={
                name: pick_examples(images[name], rows[name].tolist(), torch.from_numpy(targets), ids, groups)
                for name in SPLITS
            },
        )

    def _to_images(
        self, values: dict[str, NDArray[Any]], key: str, arrays: Arrays
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        sample = values["train"]
        is_matrix = key in ("features", "corr_int8") or (key == "x" and sample.ndim == 2)
        if is_matrix and (sample.ndim != 2 or sample.dtype.kind not in "biuf"):
            raise DataError(f"{self.path}: expected {key} of numbers [N, F], got {sample.dtype} {list(sample.shape)}")
        if key == "corr_int8":
            if "scale" not in arrays or arrays["scale"].size != 1:
                raise DataError(f"{self.path}: expected one number `scale` beside corr_int8; store it")
            scale = np.float32(arrays["scale"].item())
            images = {name: correlations_to_images(part * scale) for name, part in values.items()}
            return images, correlation_support(sample.shape[1])
        if is_matrix:
            low, high = feature_range(sample)
            images = {name: features_to_images(part, low, high, self.cell) for name, part in values.items()}
            return images, feature_support(sample.shape[1], self.cell)
        return {name: stack_to_images(part) for name, part in values.items()}, None


def _id_key(arrays: Arrays) -> str | None:
    key = first_key(arrays, ("ids", "image_id"))
    if key is None and "subject_id" in arrays:
        subjects = arrays["subject_id"]
        key = "subject_id" if len(np.unique(subjects)) == subjects.size else None  # several rows each: only a group
    return key
