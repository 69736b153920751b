"""Who is trained on and who is tested: the given split, folds, or one site left out; and how much of it is used.

Rows that are not labelled are ``train``: what is carved out for validation or test are labelled rows, of groups that
are labelled throughout.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from reprogram.data.base import SPLITS, Rows, Table
from reprogram.data.labels import first_ids
from reprogram.data.splits import limit_rows, partition
from reprogram.errors import ConfigError, DataError


class Protocol(ABC):
    """Says which rows of a table make up each split. Leaves are final."""

    @abstractmethod
    def rows(self, table: Table) -> dict[str, Rows]:
        """Rows of ``train``, ``val`` and ``test``; no group is in two of them."""


class FixedSplit(Protocol):
    """The split that the data come with; ``val`` or ``test`` that it does not contain is carved out of ``train``.

    Args:
        val_fraction: Part of ``train`` that becomes ``val`` if there is none, 0 to 1; ``None``: as the data set says.
        test_fraction: The same for ``test``.
        seed: Of the carving, >= 0.

    Raises:
        ConfigError: If fractions leave no training rows, or the seed is negative.
        DataError: If a split has an unknown name or there is too little to fill all three.
    """

    def __init__(self, val_fraction: float | None = None, test_fraction: float | None = None, seed: int = 0) -> None:
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, _checked_seed(seed)

    def rows(self, table: Table) -> dict[str, Rows]:
        """The given split, completed."""
        names = np.full(len(table.targets), "train") if table.split is None else np.asarray(table.split, dtype=str)
        unknown = sorted(set(names.tolist()) - set(SPLITS))
        if unknown:
            raise DataError(f"{table.name}: expected the splits {list(SPLITS)}, got {unknown[:5]}; rename them")
        rows = {name: np.flatnonzero(names == name) for name in SPLITS}
        wanted = {
            "val": table.val_fraction if self.val_fraction is None else self.val_fraction,
            "test": table.test_fraction if self.test_fraction is None else self.test_fraction,
        }
        missing = {name: fraction for name, fraction in wanted.items() if not len(rows[name])}
        return rows if not missing else {**rows, **_carve(table, rows["train"], missing, self.seed)}


class KFold(Protocol):
    """Stratified folds of whole groups: one is tested, the rest is trained on; the split of the data is not used.

    Each fold is a run of its own, so folds can run side by side: ``-m protocol=kfold 'protocol.fold=range(10)'``.

    Args:
        folds: Number of folds, >= 2.
        fold: The one that is tested, 0 to folds - 1.
        val_fraction: Part of the other folds that becomes ``val``; ``None``: as the data set says.
        seed: Of folds and validation, >= 0.

    Raises:
        ConfigError: If there is no such fold, or the seed is negative.
        DataError: If there are fewer groups than folds.
    """

    def __init__(self, folds: int = 10, fold: int = 0, val_fraction: float | None = None, seed: int = 0) -> None:
        if folds < 2 or not 0 <= fold < folds:
            raise ConfigError(
                f"protocol: expected folds >= 2 and fold in 0..folds-1, got folds={folds} and fold={fold}"
            )
        self.folds, self.fold, self.val_fraction, self.seed = folds, fold, val_fraction, _checked_seed(seed)

    def rows(self, table: Table) -> dict[str, Rows]:
        """Cuts all labelled rows into folds, then validation out of those that are not tested."""
        shares = {str(fold): 1 / self.folds for fold in range(self.folds)}
        labelled, _ = _by_label(table, np.arange(len(table.targets)))
        test = _parts(table, labelled, shares, self.seed)[str(self.fold)]
        return _tested(table, test, self.val_fraction, self.seed)


class LeaveOneOut(Protocol):
    """All rows of one site (or scanner, ...) are tested, the rest is trained on; the split of the data is not used.

    Each site is a run of its own: ``-m protocol=leave_one_out 'protocol.index=range(20)'``; their predictions are
    pooled by ``reprogram-report``.

    Args:
        attribute: What the rows are told apart by.
        value: The one that is tested; ``None``: by its number.
        index: Its place in alphabetical order, from 0; ``None``: by its name.
        val_fraction: Part of the others that becomes ``val``; ``None``: as the data set says.
        seed: Of validation, >= 0.

    Raises:
        ConfigError: If neither or both of value and index are given, there is no such value, or the seed is negative.
        DataError: If the data have no such attribute, it is the same for all rows, or rows of the tested value are not
            labelled.
    """

    def __init__(
        self,
        attribute: str = "site",
        value: str | int | None = None,
        index: int | None = None,
        val_fraction: float | None = None,
        seed: int = 0,
    ) -> None:
        if (value is None) == (index is None):
            raise ConfigError(
                f"protocol: expected one of value and index, got value={value} and index={index}; "
                "set protocol.index=0 for the first"
            )
        self.attribute, self.value, self.index = attribute, None if value is None else str(value), index
        self.val_fraction, self.seed = val_fraction, _checked_seed(seed)

    def rows(self, table: Table) -> dict[str, Rows]:
        """Sets the rows of one value apart."""
        values = np.asarray(attribute_of(table, self.attribute), dtype=str)
        found = sorted(set(values.tolist()))
        if self.value is None:
            assert self.index is not None
            if not 0 <= self.index < len(found):
                raise ConfigError(
                    f"protocol.index: expected 0..{len(found) - 1} ({self.attribute} of {table.name}), got {self.index}"
                )
            value = found[self.index]
        else:
            value = self.value
            if value not in found:
                raise ConfigError(f"protocol.value: expected one of {found}, got '{value}'")
        if len(found) < 2:
            raise DataError(f"{table.name}: expected several values of {self.attribute}, got only {found}")
        test = np.flatnonzero(values == value)
        unknown = test[table.targets[test] < 0].tolist()
        if unknown:
            raise DataError(
                f"{table.origin or table.name}: expected labelled rows of {self.attribute} '{value}', which is tested, "
                f"got none for {first_ids(unknown, table.ids)}; label them or leave them out"
            )
        return _tested(table, test, self.val_fraction, self.seed)


def attribute_of(table: Table, name: str) -> Sequence[str]:
    """One attribute of all rows.

    Raises:
        DataError: If the data have no such attribute, or rows lack a value.
    """
    if name not in table.attributes:
        raise DataError(
            f"{table.origin or table.name}: expected the attribute '{name}', got {sorted(table.attributes)}; "
            "give the metadata column or choose another protocol.attribute"
        )
    values = table.attributes[name]
    empty = [table.ids[row] for row, value in enumerate(values) if not value]
    if empty:
        raise DataError(f"{table.origin or table.name}: {len(empty)} rows have no {name}: {', '.join(empty[:5])}")
    return values


class Selection:
    """How much of each split is used: everything, so many, a fraction, or so many of each class.

    Args:
        shots: Training examples of each class (all where there are fewer), none without a label; ``None``: all.
        train_fraction: Part of the training examples, a stratified choice, in (0, 1]; ``None``: all. Those without a
            label count as a class of their own.
        max_train: At most so many training examples, a stratified choice; ``None``: all.
        max_val: The same for ``val``.
        max_test: The same for ``test``.
        duplicates: What becomes of an image that is in two splits: ``refuse`` the data, ``drop`` it from the split it
            should not inform (train before val before test), or ``keep`` it.
        seed: Of the choices, >= 0; more ``shots`` contain fewer.

    Raises:
        ConfigError: If a value is out of range or more than one says how much to train on.
    """

    def __init__(
        self,
        shots: int | None = None,
        train_fraction: float | None = None,
        max_train: int | None = None,
        max_val: int | None = None,
        max_test: int | None = None,
        duplicates: str = "refuse",
        seed: int = 0,
    ) -> None:
        if duplicates not in ("refuse", "drop", "keep"):
            raise ConfigError(f"protocol.duplicates: expected refuse, drop or keep, got '{duplicates}'")
        if sum(choice is not None for choice in (shots, train_fraction, max_train)) > 1:
            raise ConfigError(
                f"protocol: expected one of shots, train_fraction and max_train, got {shots}, {train_fraction} and "
                f"{max_train}"
            )
        counts = {"shots": shots, "max_train": max_train, "max_val": max_val, "max_test": max_test}
        for name, count in counts.items():
            if count is not None and (isinstance(count, bool) or count < 1):
                raise ConfigError(f"protocol.{name}: expected at least 1 example, got {count}; null for all")
        if train_fraction is not None and (isinstance(train_fraction, bool) or not 0 < train_fraction <= 1):
            raise ConfigError(f"protocol.train_fraction: expected a number in (0, 1], got {train_fraction}")
        self.shots, self.train_fraction, self.duplicates, self.seed = shots, train_fraction, duplicates, seed
        self.maxima = {"train": max_train, "val": max_val, "test": max_test}

    def choose(self, table: Table, rows: dict[str, Rows]) -> dict[str, Rows]:
        """Some of the rows of each split."""
        maxima = dict(self.maxima)
        if self.train_fraction is not None:
            maxima["train"] = max(1, round(self.train_fraction * len(rows["train"])))
        chosen = {name: part[limit_rows(table.targets[part], maxima[name], self.seed)] for name, part in rows.items()}
        if self.shots is not None:
            order = np.random.default_rng(self.seed).permutation(chosen["train"])
            known = np.unique(table.targets[table.targets >= 0])
            classes = [order[table.targets[order] == label][: self.shots] for label in known]
            chosen["train"] = np.sort(np.concatenate(classes))
        return chosen


def _tested(table: Table, test: Rows, val_fraction: float | None, seed: int) -> dict[str, Rows]:
    rest = np.setdiff1d(np.arange(len(table.targets)), test)
    fraction = table.val_fraction if val_fraction is None else val_fraction
    return {**_carve(table, rest, {"val": fraction}, seed), "test": test}


def _carve(table: Table, pool: Rows, fractions: dict[str, float], seed: int) -> dict[str, Rows]:
    """Splits off parts of the labelled rows of a pool; the rest is ``train``."""
    labelled, others = _by_label(table, pool)
    parts = _parts(table, labelled, {"train": 1.0 - sum(fractions.values()), **fractions}, seed)
    return parts if not len(others) else {**parts, "train": np.sort(np.concatenate([parts["train"], others]))}


def _parts(table: Table, rows: Rows, shares: dict[str, float], seed: int) -> dict[str, Rows]:
    """Cuts rows as ``partition`` does."""
    groups = None if table.groups is None else [table.groups[row] for row in rows.tolist()]
    return {name: rows[part] for name, part in partition(table.targets[rows], groups, shares, seed).items()}


def _by_label(table: Table, rows: Rows) -> tuple[Rows, Rows]:
    """Rows that may be tested, and those whose group holds an unlabelled one: these can only be trained on."""
    unknown = table.targets[rows] < 0
    if table.groups is not None and unknown.any():
        groups = np.asarray([table.groups[row] for row in rows.tolist()], dtype=str)
        unknown = np.isin(groups, groups[unknown])
    return rows[~unknown], rows[unknown]


def _checked_seed(seed: int) -> int:
    if seed < 0:
        raise ConfigError(f"protocol.seed: expected at least 0, got {seed}")
    return seed
