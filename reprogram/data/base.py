"""What a target task looks like once it is loaded, and the checks no data set escapes."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogram.errors import DataError, ShapeError
from reprogram.types import TaskSpec

SPLITS = ("train", "val", "test")

Rows = NDArray[np.int64]

_logger = logging.getLogger(__name__)


class ImageRows:
    """Some rows of a stack of images, read when they are asked for: a stack in a mapped file need not fit in memory.

    Shapes:
        stack: [M, C, h, w] uint8, rows: [N] -> indexing with rows of rows [B] gives [B, C, h, w].
    """

    def __init__(self, stack: Tensor, rows: Tensor) -> None:
        self.stack, self.rows = stack, rows
        self.dtype, self.ndim = stack.dtype, stack.ndim
        self.shape = torch.Size((len(rows), *stack.shape[1:]))

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The images at these rows, in memory."""
        return self.stack[self.rows[rows]]

    def take(self, rows: Tensor) -> "ImageRows":
        """The images at these rows, still to be read."""
        return ImageRows(self.stack, self.rows[rows])


Images = Tensor | ImageRows


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images of one split.

    Args:
        images: Stored pixels, 0..255.
        targets: Target class of each image, 0..K_t-1.
        ids: Unique name of each image; it comes back in ``predictions.csv``.
        groups: Patient, lesion or subject of each image, never shared by two splits; ``None``: not known.
        attributes: What else is known of each image (site, sex, age, ...) as text, empty where unknown; metrics are
            reported by it.
        trust: How far each target is trusted, in (0, 1]: what an example weighs wherever a target is learned from;
            ``None``: all fully.

    Shapes:
        images: [N, C, h, w] uint8, C = 1 or 3.
        targets: [N] int64.
        trust: [N] float32.

    Raises:
        ShapeError: If a shape or dtype is another one, or the lengths differ.
        DataError: If an id occurs twice, a target is negative, or a trust is out of range.
    """

    images: Images
    targets: Tensor
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trust: Tensor | None = None

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
        for name, values in (("ids", self.ids), ("groups", self.groups), *self.attributes.items()):
            if values is not None and len(values) != len(self.targets):
                raise ShapeError(f"Examples: expected {len(self.targets)} {name}, got {len(values)}")
        if len(set(self.ids)) != len(self.ids):
            repeated = [name for name, count in Counter(self.ids).items() if count > 1]
            raise DataError(f"Examples: expected unique ids, got {_first(repeated)} more than once; drop or rename")
        if len(self.targets) and int(self.targets.min()) < 0:
            raise DataError(f"Examples: expected targets >= 0, got {int(self.targets.min())}; drop unlabelled rows")
        if self.trust is None:
            return
        if self.trust.dtype != torch.float32 or self.trust.shape != self.targets.shape:
            raise ShapeError(
                f"Examples: expected trust float32 [{len(self.images)}], "
                f"got {self.trust.dtype} {list(self.trust.shape)}"
            )
        if not bool(((self.trust > 0) & (self.trust <= 1)).all()):
            raise DataError(
                f"Examples: expected trust in (0, 1], got {float(self.trust.min()):g} to {float(self.trust.max()):g}"
            )

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def weights(self) -> NDArray[np.float64] | None:
        """Trust as an array [N]; ``None``: all fully."""
        return None if self.trust is None else self.trust.double().numpy()

    def subset(self, indices: Sequence[int] | NDArray[Any] | Tensor) -> "Examples":
        """The examples at these rows, in this order (row numbers, not a mask)."""
        rows = torch.as_tensor(indices)
        if rows.dtype == torch.bool:
            raise ShapeError("Examples.subset: expected row numbers, got a boolean mask; pass mask.nonzero()")
        rows = rows.long()
        return Examples(
            images=self.images.take(rows) if isinstance(self.images, ImageRows) else self.images[rows],
            targets=self.targets[rows],
            ids=_pick(self.ids, rows.tolist()),
            groups=None if self.groups is None else _pick(self.groups, rows.tolist()),
            attributes={name: _pick(values, rows.tolist()) for name, values in self.attributes.items()},
            trust=None if self.trust is None else self.trust[rows],
        )


@dataclass(frozen=True, eq=False)
class TaskData:
    """A target task and its three splits. A class that ``val`` or ``test`` lacks is named in a logged warning.

    Args:
        spec: The task's facts.
        splits: ``train``, ``val`` and ``test``, none of them empty.
        complete: Whether every class must have a training example; else one that has none is named in a warning too.

    Raises:
        DataError: If a split is missing or empty, a target has no class name, the splits' images differ in shape
            or from ``spec.image_size``, a class has no training example, or an id or a group is in two splits.
    """

    spec: TaskSpec
    splits: dict[str, Examples]
    complete: bool = True

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
            beyond = (examples.targets >= self.spec.num_classes).nonzero().flatten().tolist()
            if beyond:
                raise DataError(
                    f"{task}: expected targets below {self.spec.num_classes} (the number of class names), "
                    f"got {int(examples.targets.max())} in {name!r}: {_first({examples.ids[row] for row in beyond})}"
                )
            present = set(examples.targets.tolist())
            absent = [label for index, label in enumerate(self.spec.class_names) if index not in present]
            if absent and name == "train" and self.complete:
                raise DataError(
                    f"{task}: expected training examples of every class, got none of {absent}; use more "
                    "(protocol.shots, max_train, train_fraction), choose another split, or name only classes that occur"
                )
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


@dataclass(frozen=True, eq=False)
class Table:
    """A target task before it is split: one row for each example, whose images are read when it is known which.

    Args:
        name: Of the task.
        class_names: K_t names; of two, the second is the positive one.
        targets: Class of each row; -1: not labelled (yet), so that it can only be trained on, once it is.
        ids: Unique name of each row.
        read: Gives, for the rows of each split, their images and those rows that could be read. It sees all splits at
            once, because constants of an embedding come from the training rows alone.
        groups: Patient, lesion or subject of each row; ``None``: every row on its own.
        split: ``train``, ``val`` or ``test`` of each row as the publisher made it; ``None``: not split.
        attributes: Site, sex, age, ... of each row as text, empty where unknown.
        support: Boolean [h, w], true where images carry data; ``None``: everywhere.
        val_fraction: Part of the training rows that becomes ``val`` where there is none, unless the protocol says.
        test_fraction: The same for ``test``.
        keys: What makes two rows the same, such as unrounded features; ``None``: their pixels.
        repeats: Whether equal rows are no mistake, such as images drawn from a small set.
        ordinal: Whether the classes are grades.
        private: Whether no target pixel may leave this machine.
        licence: Licence of the data.
        citation: How to cite the data.
        origin: File or folder the rows come from, for messages.

    Shapes:
        targets: [N] int64.
    """

    name: str
    class_names: tuple[str, ...]
    targets: NDArray[np.int64]
    ids: Sequence[str]
    read: Callable[[Mapping[str, Rows]], dict[str, tuple[Images, list[int]]]]
    groups: Sequence[str] | None = None
    split: Sequence[str] | None = None
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    support: Tensor | None = None
    val_fraction: float = 0.15
    test_fraction: float = 0.2
    keys: Sequence[bytes] | None = None
    repeats: bool = False
    ordinal: bool = False
    private: bool = True
    licence: str = "unknown"
    citation: str = "unknown"
    origin: str = ""


class TargetData(ABC):
    """A source of target data. Leaves are final; their constructor arguments are the keys of their YAML."""

    @abstractmethod
    def table(self) -> Table:
        """Finds and checks the rows; the same arguments give the same table."""


def in_memory(stack: Tensor) -> Callable[[Mapping[str, Rows]], dict[str, tuple[Images, list[int]]]]:
    """``Table.read`` of images that are all there: [N, C, h, w] uint8."""
    return lambda rows: {name: (stack[torch.from_numpy(part)], part.tolist()) for name, part in rows.items()}


def _pick(values: Sequence[str], rows: Sequence[int]) -> tuple[str, ...]:
    return tuple(values[row] for row in rows)


def _first(names: Sequence[str] | set[str], count: int = 5) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:count]) + (", ..." if len(ordered) > count else "")
