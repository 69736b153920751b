"""Stratified parts and choices of rows: by class, whole groups, a function of the seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprogram.data.base import Examples, Rows
from reprogram.errors import ConfigError, DataError


def partition(
    targets: NDArray[Any], groups: Sequence[str] | None, fractions: Mapping[str, float], seed: int
) -> dict[str, Rows]:
    """Cuts rows into parts with nearly the same class frequencies, without cutting a group.

    Groups come in random order, large ones first, and each goes to the part that still lacks the largest share of its
    classes. So a class of n rows is spread within one row of its fractions, and a very rare one fills the parts with
    large fractions first. Where that leaves a part empty, equal claims go to the part that lacks the most rows.

    Reference:
        On the Stratification of Multi-Label Data, Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011 (the idea; there
        labels of one example take the place of the rows of one group).
    """
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(
            f"expected positive fractions that leave room for every split, got {dict(fractions)}; "
            "choose val_fraction and test_fraction above 0 with a sum below 1"
        )
    keys = np.arange(len(targets)) if groups is None else np.asarray(groups, dtype=str)
    group_names, group_of_row = np.unique(keys, return_inverse=True)
    if len(group_names) < len(fractions):
        raise DataError(
            f"expected at least {len(fractions)} {'rows' if groups is None else 'groups'} to fill {list(fractions)}, "
            f"got {len(group_names)}; give more data or a ready split"
        )
    classes, class_of_row = np.unique(targets, return_inverse=True)
    counts = np.zeros((len(group_names), len(classes)))
    np.add.at(counts, (group_of_row, class_of_row), 1.0)
    totals = counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(group_names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    for even in (False, True):
        part_of_row = _dealt(counts, totals, list(fractions.values()), order, even)[group_of_row]
        parts = {name: np.flatnonzero(part_of_row == index) for index, name in enumerate(fractions)}
        empty = [name for name, part in parts.items() if not len(part)]
        if not empty:
            return parts
    raise DataError(
        f"{len(targets)} rows in {len(group_names)} groups are too few for the fractions {dict(fractions)}: "
        f"nothing is left for {empty}; enlarge its fraction, choose fewer folds, or give a ready split"
    )


def _dealt(
    counts: NDArray[np.float64], totals: NDArray[np.float64], fractions: Sequence[float], order: Rows, even: bool
) -> Rows:
    """Part of each group; of parts that lack as much, the first, or if ``even`` the one that lacks the most rows."""
    lacking = np.array(fractions)[:, None] * totals
    part_of_group = np.empty(len(counts), dtype=np.int64)
    for group in order:
        wants = lacking @ (counts[group] / totals)
        if even:
            wants = np.where(wants > wants.max() - 1e-9, lacking.sum(axis=1), -np.inf)
        part = int(np.argmax(wants))
        part_of_group[group] = part
        lacking[part] -= counts[group]
    return part_of_group


def limit(examples: Examples, n: int | None, seed: int) -> Examples:
    """At most ``n`` examples, stratified by class, in their old order (``None``: all)."""
    return examples.subset(limit_rows(examples.targets.numpy(), n, seed))


def limit_rows(targets: NDArray[Any], n: int | None, seed: int) -> Rows:
    """Rows of a stratified choice of min(n, N): every class keeps its frequency, by largest remainders.

    Raises:
        ConfigError: If ``n`` is below one.
    """
    if n is not None and n < 1:
        raise ConfigError(f"expected a maximum of at least 1 example, got {n}; use null for all")
    if n is None or n >= len(targets):
        return np.arange(len(targets))
    _, class_of_row, totals = np.unique(targets, return_inverse=True, return_counts=True)
    quotas = totals * n / len(targets)
    taken = np.floor(quotas).astype(np.int64)
    largest_remainders = np.argsort(taken - quotas, kind="stable")[: n - int(taken.sum())]
    taken[largest_remainders] += 1
    order = np.random.default_rng(seed).permutation(len(targets))
    chosen = [order[class_of_row[order] == label][:count] for label, count in enumerate(taken)]
    return np.sort(np.concatenate(chosen))
