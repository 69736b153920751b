"""Labels as they are stored become targets 0..K_t-1 and class names, in one stated way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import DataError


def name_targets(labels: Sequence[str], class_names: Sequence[str] | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Targets of labels that are names.

    Args:
        labels: One name a row.
        class_names: All classes in the wanted order (of two, the second is the positive one); ``None``: those that
            occur, whole numbers by value, other names by the alphabet.

    Returns:
        The targets [N] and the class names.

    Raises:
        DataError: If a label is not among ``class_names``.
    """
    found = sorted(set(labels), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    names = tuple(found if class_names is None else (str(name) for name in class_names))
    unknown = [name for name in found if name not in names]
    if unknown:
        raise DataError(f"expected labels among the class names {list(names)}, got {unknown[:5]}; list every class")
    index_of = {name: index for index, name in enumerate(names)}
    return np.array([index_of[name] for name in labels], dtype=np.int64), names


def array_targets(
    labels: NDArray[Any], stored_names: Sequence[str] | None, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Targets of an array of labels: integers that count from 0, or names.

    Args:
        labels: [N] or [N, 1].
        stored_names: Names of the classes 0, 1, ... as the file gives them.
        class_names: The wanted order of these names; where the file has integers and no names: the names of 0, 1, ...

    Raises:
        DataError: If there are several labels a row, or they are of another kind, out of range or have gaps.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise DataError(
            f"expected one label a row, integers or names [N], got {labels.dtype} {list(labels.shape)}; "
            "multi-label and soft labels are not supported"
        )
    if labels.dtype.kind == "U":
        return name_targets(labels.tolist(), class_names or stored_names)
    numbers = labels.astype(np.int64)
    found = np.unique(numbers)
    names = stored_names or class_names
    if names is None:
        if not np.array_equal(found, np.arange(len(found))):
            raise DataError(f"expected labels 0, 1, 2, ... without a gap, got {found[:10].tolist()}; give class_names")
        names = [str(number) for number in found]
    if len(found) and not 0 <= found[0] <= found[-1] < len(names):
        raise DataError(
            f"expected labels 0..{len(names) - 1} for the class names {list(names)}, "
            f"got {found[0]}..{found[-1]}; drop unlabelled rows or name every class"
        )
    return name_targets([str(names[number]) for number in numbers], class_names or names)
