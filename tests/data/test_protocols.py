"""Given splits, folds, one site left out, and how much of it is used."""

from typing import Any

import numpy as np
import pytest
import torch

from reprogram.data.base import Table, in_memory
from reprogram.data.protocols import FixedSplit, KFold, LeaveOneOut, Selection
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

COUNT = 120
SITES = [("KKI", "NYU", "UCLA", "YALE")[row % 4] for row in range(COUNT)]


def table(count: int = COUNT, **changes: Any) -> Table:
    images = torch.arange(count).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    facts: dict[str, Any] = {
        "name": "toy",
        "class_names": ("no", "yes"),
        "targets": (np.arange(count) // 4) % 2,
        "ids": [f"i{row}" for row in range(count)],
        "read": in_memory(images),
    }
    return Table(**facts | changes)


def test_a_given_split_is_kept_and_only_what_it_lacks_is_carved() -> None:
    rows = FixedSplit().rows(table(100, split=["train"] * 60 + ["test"] * 40))
    assert rows["test"].tolist() == list(range(60, 100))
    assert abs(len(rows["val"]) - 0.15 * 60) <= 1
    assert sorted([*rows["train"], *rows["val"]]) == list(range(60))
    with pytest.raises(DataError, match="'valid'"):
        FixedSplit().rows(table(2, split=["train", "valid"]))


def test_the_fractions_are_those_of_the_data_unless_chosen() -> None:
    data = table(100, val_fraction=0.3, test_fraction=0.1)
    assert {name: len(part) for name, part in FixedSplit().rows(data).items()} == {"train": 60, "val": 30, "test": 10}
    chosen = FixedSplit(val_fraction=0.2, test_fraction=0.2).rows(data)
    assert all(abs(len(chosen[name]) - 20) <= 1 for name in ("val", "test"))
    with pytest.raises(ConfigError, match="sum below 1"):
        FixedSplit(test_fraction=0.9).rows(data)
    with pytest.raises(ConfigError, match=r"protocol\.seed"):
        FixedSplit(seed=-1)


def test_every_row_is_tested_in_exactly_one_fold() -> None:
    groups = [f"p{row // 3}" for row in range(COUNT)]
    data = table(groups=groups)
    tested = []
    for fold in range(10):
        rows = KFold(fold=fold).rows(data)
        tested += rows["test"].tolist()
        assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(COUNT))
        members = [{groups[row] for row in part} for part in rows.values()]
        assert len(set.union(*members)) == sum(map(len, members))
        assert abs(len(rows["test"]) - 12) <= 3
        assert abs(data.targets[rows["test"]].mean() - 0.5) < 0.2
    assert sorted(tested) == list(range(COUNT))


def test_folds_are_a_function_of_the_seed_and_validation_is_not_the_test() -> None:
    one, same, other = (KFold(fold=2, seed=seed).rows(table()) for seed in (0, 0, 1))
    assert one["test"].tolist() == same["test"].tolist() != other["test"].tolist()
    assert len(one["val"]) == 16  # 0.15 of 108
    with pytest.raises(ConfigError, match=r"fold in 0..folds-1, got folds=10 and fold=10"):
        KFold(fold=10)


def test_one_site_is_tested_and_no_row_of_it_trained_on() -> None:
    data = table(attributes={"site": SITES})
    numbers = table(attributes={"site": [str(row % 3) for row in range(COUNT)]})
    assert LeaveOneOut(value=2).rows(numbers)["test"].tolist() == list(range(2, COUNT, 3))
    by_name, by_index = LeaveOneOut(value="NYU").rows(data), LeaveOneOut(index=1).rows(data)
    assert by_name["test"].tolist() == by_index["test"].tolist() == list(range(1, COUNT, 4))
    assert {SITES[row] for row in [*by_name["train"], *by_name["val"]]} == {"KKI", "UCLA", "YALE"}


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({}, ConfigError, "one of value and index"),
        ({"value": "NYU", "index": 1}, ConfigError, "one of value and index"),
        ({"index": 4}, ConfigError, "0..3"),
        ({"value": "MIT"}, ConfigError, "one of .*KKI"),
        ({"attribute": "scanner", "index": 0}, DataError, r"the attribute 'scanner', got \['blank', 'one', 'site'\]"),
        ({"attribute": "blank", "index": 0}, DataError, "1 rows have no blank: i7"),
        ({"attribute": "one", "index": 0}, DataError, "several values of one"),
    ],
)
def test_a_site_that_cannot_be_left_out_is_refused(choice: dict[str, Any], error: type, message: str) -> None:
    blank = ["" if row == 7 else site for row, site in enumerate(SITES)]
    data = table(attributes={"site": SITES, "blank": blank, "one": ["x"] * COUNT})
    with pytest.raises(error, match=message):
        LeaveOneOut(**choice).rows(data)


def test_shots_fractions_and_maxima_choose_among_training_rows() -> None:
    data = table()
    rows = FixedSplit().rows(data)
    few = Selection(shots=3).choose(data, rows)
    assert np.bincount(data.targets[few["train"]]).tolist() == [3, 3]
    more = Selection(shots=5).choose(data, rows)
    assert set(few["train"]) < set(more["train"]) <= set(rows["train"])
    assert few["test"].tolist() == rows["test"].tolist()
    assert len(Selection(train_fraction=0.25).choose(data, rows)["train"]) == round(0.25 * len(rows["train"]))
    assert len(Selection(max_val=5).choose(data, rows)["val"]) == 5
    for wrong in (
        {"shots": 0},
        {"train_fraction": 0.0},
        {"train_fraction": True},
        {"shots": 1, "max_train": 9},
        {"duplicates": "ask"},
    ):
        with pytest.raises(ConfigError, match="protocol"):
            Selection(**wrong)


@pytest.mark.parametrize("name", ["shots", "max_train", "max_val", "max_test"])
@pytest.mark.parametrize("number", [0, -1, True])
def test_a_number_of_examples_that_is_none_is_named(name: str, number: int) -> None:
    with pytest.raises(ConfigError, match=rf"protocol\.{name}: expected at least 1 example, got {number}; null"):
        Selection(**{name: number})  # type: ignore[arg-type]


def test_an_image_in_two_splits_is_named_or_dropped_from_the_earlier_one() -> None:
    images = torch.arange(9).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    images[7] = images[0]  # of test, and train
    images[5] = images[1]  # of val, and train
    split = ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    data = table(9, read=in_memory(images), split=split, targets=np.array([0, 1, 0, 1, 0, 1, 0, 1, 0]), origin="a.npz")
    with pytest.raises(DataError, match=r"a.npz: 2 images of 'train' are also in a later split: i0 = i7, i1 = i5; "):
        load_task(data)
    dropped = load_task(data, selection=Selection(duplicates="drop")).splits
    assert dropped["train"].ids == ("i2", "i3")
    assert dropped["val"].ids == ("i4", "i5")
    assert len(load_task(data, selection=Selection(duplicates="keep")).splits["train"]) == 4


def test_a_class_without_training_examples_is_refused() -> None:
    with pytest.raises(DataError, match=r"none of \['maybe'\]; use more \(protocol\.shots, max_train, "):
        load_task(table(class_names=("no", "yes", "maybe")))
