"""Stratified, group-wise splits and choices."""

import numpy as np
import pytest
import torch

from reprogram.data.base import Examples
from reprogram.data.splits import limit, limit_rows, partition
from reprogram.errors import ConfigError, DataError

FRACTIONS = {"train": 0.65, "val": 0.15, "test": 0.2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_class_is_spread_within_one_row_of_its_fractions(seed: int) -> None:
    targets = np.random.default_rng(9).choice(3, size=500, p=[0.9, 0.08, 0.02])
    parts = partition(targets, None, FRACTIONS, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(500))
    for label in range(3):
        for name, fraction in FRACTIONS.items():
            assert abs((targets[parts[name]] == label).sum() - fraction * (targets == label).sum()) <= 1


def test_groups_stay_whole_and_classes_balanced() -> None:
    generator = np.random.default_rng(1)
    patients = generator.integers(0, 120, size=600)
    targets = (patients % 4 == 0).astype(np.int64)
    groups = [f"p{patient}" for patient in patients]
    parts = partition(targets, groups, FRACTIONS, 0)
    members = [{groups[row] for row in rows} for rows in parts.values()]
    assert len(set.union(*members)) == sum(map(len, members))
    for name, fraction in FRACTIONS.items():
        assert abs(len(parts[name]) / 600 - fraction) < 0.02
        assert abs(targets[parts[name]].mean() - targets.mean()) < 0.03


def test_the_seed_decides() -> None:
    targets = np.arange(100) % 2
    one, same, other = (partition(targets, None, FRACTIONS, seed)["test"].tolist() for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_a_class_of_one_row_goes_to_train() -> None:
    parts = partition(np.array([0] * 20 + [1]), None, FRACTIONS, 0)
    assert 20 in parts["train"]


def test_many_parts_of_few_groups_are_all_filled() -> None:
    groups = [f"p{row // 2}" for row in range(80)]
    targets = np.arange(80) // 2 % 5
    parts = partition(targets, groups, {str(fold): 0.1 for fold in range(10)}, 0)
    assert all(6 <= len(part) <= 10 for part in parts.values())


def test_too_little_to_split_is_refused() -> None:
    with pytest.raises(DataError, match="at least 3 groups"):
        partition(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"], FRACTIONS, 0)
    with pytest.raises(DataError, match=r"nothing is left for \['val', 'test'\]"):
        partition(np.array([0, 0, 0]), None, {"train": 0.9, "val": 0.01, "test": 0.09}, 0)


def test_a_maximum_keeps_class_frequencies_exactly() -> None:
    targets = np.array([0] * 600 + [1] * 300 + [2] * 100)
    rows = limit_rows(targets, 50, seed=0)
    assert np.bincount(targets[rows]).tolist() == [30, 15, 5]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(limit_rows(targets, 7, seed=0)) == 7
    assert limit_rows(targets, 5000, seed=0).tolist() == list(range(1000))
    assert limit_rows(targets, 50, seed=1).tolist() != rows.tolist()
    with pytest.raises(ConfigError, match="at least 1"):
        limit_rows(targets, 0, seed=0)


def test_limit_takes_the_same_rows_of_examples() -> None:
    targets = torch.tensor([0, 1] * 10)
    examples = Examples(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), targets, tuple(str(row) for row in range(20)))
    part = limit(examples, 6, seed=5)
    assert part.targets.bincount().tolist() == [3, 3]
    assert part.ids == tuple(str(row) for row in limit_rows(targets.numpy(), 6, seed=5))
    assert len(limit(examples, None, seed=5)) == 20
