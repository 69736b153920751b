"""What a target task looks like once it is loaded, and the checks no data set escapes."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogram.errors import DataError, ShapeError
from reprogram.types import TaskSpec

SPLITS = ("train", "val", "test")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images of one split.

    Args:
        images: Stored pixels, 0..255.
        targets: Target class of each image, 0..K_t-1.
        ids: Unique name of each image; it comes back in ``predictions.csv``.
        groups: Patient, lesion or subject of each image, never shared by two splits; ``None``: not known.

    Shapes:
        images: [N, C, h, w] uint8, C = 1 or 3.
        targets: [N] int64.

    Raises:
        ShapeError: If a shape or dtype is another one, or the lengths differ.
        DataError: If an id occurs twice or a target is negative.
    """

    images: Tensor
    targets: Tensor
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses images, targets, ids and groups that do not belong together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise ShapeError(
                "Examples: expected images uint8 [N, 1 or 3, h, w], "
                f"got {self.images.dtype} {list(self.images.shape)}; scale to 0..255 and put the channels second"
            )
        if self.targets.dtype != torch.int64 or self.targets.shape != self.images.shape[:1]:
            raise ShapeError(
                f"Examples: expected targets int64 [{len(self.images)}], "
                f"got {self.targets.dtype} {list(self.targets.shape)}"
            )
        for name, values in (("ids", self.ids), ("groups", self.groups)):
            if values is not None and len(values) != len(self.targets):
                raise ShapeError(f"Examples: expected {len(self.targets)} {name}, got {len(values)}")
        if len(set(self.ids)) != len(self.ids):
            repeated = [name for name, count in Counter(self.ids).items() if count > 1]
            raise DataError(f"Examples: expected unique ids, got {_first(repeated)} more than once; drop or rename")
        if len(self.targets) and int(self.targets.min()) < 0:
            raise DataError(f"Examples: expected targets >= 0, got {int(self.targets.min())}; drop unlabelled rows")

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def subset(self, indices: Sequence[int] | NDArray[Any] | Tensor) -> "Examples":
        """The examples at these rows, in this order (row numbers, not a mask)."""
        rows = torch.as_tensor(indices)
        if rows.dtype == torch.bool:
            raise ShapeError("Examples.subset: expected row numbers, got a boolean mask; pass mask.nonzero()")
        rows = rows.long()
        return pick_examples(self.images[rows], rows.tolist(), self.targets, self.ids, self.groups)


def pick_examples(
    images: Tensor, rows: Sequence[int], targets: Tensor, ids: Sequence[str], groups: Sequence[str] | None
) -> Examples:
    """Examples made of these rows of a table, whose images were picked already."""
    return Examples(
        images=images,
        targets=targets[torch.as_tensor(rows, dtype=torch.int64)],
        ids=tuple(ids[row] for row in rows),
        groups=None if groups is None else tuple(groups[row] for row in rows),
    )


@dataclass(frozen=True, eq=False)
class TaskData:
    """A target task and its three splits. A class that a split lacks is named in a logged warning.

    Args:
        spec: The task's facts.
        splits: ``train``, ``val`` and ``test``, none of them empty.

    Raises:
        DataError: If a split is missing or empty, a target has no class name, the splits' images differ in shape
            or from ``spec.image_size``, or an id or a group is in two splits.
    """

    spec: TaskSpec
    splits: dict[str, Examples]

    def __post_init__(self) -> None:
        """Refuses splits that cannot give honest numbers."""
        task = self.spec.name
        if set(self.splits) != set(SPLITS):
            raise DataError(f"{task}: expected the splits {list(SPLITS)}, got {list(self.splits)}")
        shape = self.splits["train"].images.shape[1:]
        for name, examples in self.splits.items():
            if len(examples) == 0:
                raise DataError(f"{task}: split {name!r} is empty; give it rows or a larger fraction")
            if examples.images.shape[1:] != shape or tuple(shape[1:]) != self.spec.image_size:
                raise DataError(
                    f"{task}: expected images {[shape[0], *self.spec.image_size]} in every split, "
                    f"got {list(examples.images.shape[1:])} in {name!r}"
                )
            if int(examples.targets.max()) >= self.spec.num_classes:
                raise DataError(
                    f"{task}: expected targets below {self.spec.num_classes} (the number of class names), "
                    f"got {int(examples.targets.max())} in {name!r}"
                )
            present = set(examples.targets.tolist())
            absent = [label for index, label in enumerate(self.spec.class_names) if index not in present]
            if absent:
                _logger.warning("%s: split %r has no example of %s", task, name, absent)
        for first, second in combinations(SPLITS, 2):
            one, other = self.splits[first], self.splits[second]
            shared = set(one.ids) & set(other.ids)
            if shared:
                raise DataError(f"{task}: {len(shared)} ids are in both {first!r} and {second!r}: {_first(shared)}")
            leaking = set(one.groups or ()) & set(other.groups or ())
            if leaking:
                raise DataError(
                    f"{task}: {len(leaking)} groups leak: they are in both {first!r} and {second!r}: "
                    f"{_first(leaking)}; keep all images of one patient, lesion or subject in one split"
                )


class TargetData(ABC):
    """A source of target data. Leaves are final; their constructor arguments are the keys of their YAML."""

    @abstractmethod
    def load(self) -> TaskData:
        """Reads, splits and checks the data; the same arguments give the same result."""


def _first(names: Sequence[str] | set[str], count: int = 5) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:count]) + (", ..." if len(ordered) > count else "")
