"""Labels as they are stored become targets 0..K_t-1 and class names, and names become groups, in one stated way.

Where data may hold rows that are not labelled (yet), the target of these is -1.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import ConfigError, DataError


def name_targets(
    labels: Sequence[str], class_names: Sequence[str] | None, ids: Sequence[str] | None = None, origin: str = "labels"
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Targets of labels that are names.

    Args:
        labels: One name a row.
        class_names: All classes in the wanted order (of two, the second is the positive one); ``None``: those that
            occur, whole numbers by value, other names by the alphabet.
        ids: Name of each row, for messages; ``None``: its number.
        origin: The file, for messages.

    Returns:
        The targets [N] and the class names.

    Raises:
        DataError: If a label is not among ``class_names``.
    """
    found = sorted(set(labels), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    names = tuple(found if class_names is None else (str(name) for name in class_names))
    unknown = [name for name in found if name not in names]
    if unknown:
        rows = [row for row, label in enumerate(labels) if label in unknown]
        raise DataError(
            f"{origin}: expected labels among the class names {list(names)}, got {unknown[:5]} "
            f"in {first_ids(rows, ids)}; list every class"
        )
    index_of = {name: index for index, name in enumerate(names)}
    return np.array([index_of[name] for name in labels], dtype=np.int64), names


def array_targets(
    labels: NDArray[Any],
    stored_names: Sequence[str] | None,
    class_names: Sequence[str] | None,
    ids: Sequence[str] | None = None,
    origin: str = "labels",
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Targets of an array of labels: integers that count from 0, or names.

    Args:
        labels: [N] or [N, 1].
        stored_names: Names of the classes 0, 1, ... as the file gives them.
        class_names: The wanted order of these names; where the file has integers and no names: the names of 0, 1, ...
        ids: Name of each row, for messages; ``None``: its number.
        origin: The file, for messages.

    Raises:
        DataError: If there are several labels a row, or they are of another kind, out of range or have gaps.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise DataError(
            f"{origin}: expected one label a row, integers or names [N], got {labels.dtype} {list(labels.shape)}; "
            "multi-label and soft labels are not supported"
        )
    if labels.dtype.kind == "U":
        return name_targets(labels.tolist(), class_names or stored_names, ids, origin)
    numbers = labels.astype(np.int64)
    found = np.unique(numbers)
    names = stored_names or class_names
    if names is None:
        if not np.array_equal(found, np.arange(len(found))):
            raise DataError(
                f"{origin}: expected labels 0, 1, 2, ... without a gap, got {found[:10].tolist()}; give class_names"
            )
        names = [str(number) for number in found]
    beyond = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
    if len(beyond):
        raise DataError(
            f"{origin}: expected labels 0..{len(names) - 1} for the class names {list(names)}, got {found[0]}.."
            f"{found[-1]}, wrong in {first_ids(beyond.tolist(), ids)}; drop these rows or name every class"
        )
    return name_targets([str(names[number]) for number in numbers], class_names or names, ids, origin)


def where_labelled(
    labelled: NDArray[np.bool_],
    targets_of: Callable[[list[int]], tuple[NDArray[np.int64], tuple[str, ...]]],
    origin: str = "labels",
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Targets of all rows, of those that are not labelled -1, and the class names.

    Args:
        labelled: [N].
        targets_of: Targets and class names of some rows.
        origin: The file, for messages.

    Raises:
        DataError: If no row is labelled and nothing else names the classes.
    """
    rows = np.flatnonzero(labelled)
    found, names = targets_of(rows.tolist())
    if len(labelled) and not names:
        raise DataError(f"{origin}: expected class names, got none, and no row is labelled; give class_names")
    targets = np.full(len(labelled), -1, dtype=np.int64)
    targets[rows] = found
    return targets, names


def pattern_groups(ids: Sequence[str], pattern: str) -> list[str]:
    """Group of each row: what the first group of a regular expression finds in its id.

    Raises:
        ConfigError: If the expression is invalid, has no group, or does not fit an id.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group_pattern: expected a regular expression, got {pattern!r} ({error})") from error
    if not expression.groups:
        raise ConfigError(f"group_pattern: expected an expression with a group in parentheses, got {pattern!r}")
    groups = [match[1] if (match := expression.search(name)) else None for name in ids]
    without = [row for row, group in enumerate(groups) if not group]
    if without:
        raise ConfigError(
            f"group_pattern: {pattern!r} finds no group in {first_ids(without, ids)}; make it fit every id"
        )
    return [str(group) for group in groups]


def first_ids(rows: Sequence[int], ids: Sequence[str] | None) -> str:
    """Number and first names of some rows, for a message."""
    names = [str(row) if ids is None else ids[row] for row in rows[:5]]
    return f"{len(rows)} rows: " + ", ".join([*names, *(["..."] if len(rows) > 5 else [])])
