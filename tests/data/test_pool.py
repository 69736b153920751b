"""The training rows an active learner chooses from, and splits of data of which a part is not labelled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reprogram.data.base import Table, in_memory
from reprogram.data.pool import load_pool
from reprogram.data.protocols import FixedSplit, KFold, LeaveOneOut, Protocol, Selection
from reprogram.data.task import load_split, load_task
from reprogram.errors import DataError

COUNT = 120
PART = np.where(np.arange(COUNT) % 3 == 0, -1, (np.arange(COUNT) // 4) % 2)  # a third is not labelled
SITES = [("KKI", "NYU", "UCLA")[row // 40] for row in range(COUNT)]


def table(**changes: Any) -> Table:
    images = torch.arange(COUNT).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    facts: dict[str, Any] = {
        "name": "toy",
        "class_names": ("no", "yes"),
        "targets": PART,
        "ids": [f"i{row}" for row in range(COUNT)],
        "read": in_memory(images),
    }
    return Table(**facts | changes)


@pytest.mark.parametrize("protocol", [FixedSplit(seed=2), KFold(folds=4, fold=1)])
@pytest.mark.parametrize("selection", [Selection(), Selection(max_train=40), Selection(train_fraction=0.5, seed=1)])
def test_the_pool_is_what_labelled_rows_are_taken_from(
    protocol: Protocol, selection: Selection, tmp_path: Path
) -> None:
    pool = load_pool(table(), protocol, selection)
    rows = [int(name[1:]) for name in pool.examples.ids]
    assert pool.known.tolist() == PART[rows].tolist()
    assert pool.known.dtype == np.int64
    assert pool.examples.targets.tolist() == PART[rows].clip(min=0).tolist()
    assert 0 < (pool.known < 0).sum() < len(rows)
    path = tmp_path / "labels.csv"
    path.write_text("id,label\n" + "".join(f"{name},yes\n" for name in pool.examples.ids))
    data = load_task(table(), protocol, selection, path)
    assert data.splits["train"].ids == pool.examples.ids
    assert torch.equal(data.splits["train"].images[:], pool.examples.images[:])
    assert data.spec.class_names == pool.spec.class_names
    assert data.spec.image_size == pool.spec.image_size


def test_data_that_are_labelled_throughout_are_a_pool_too() -> None:
    full = table(targets=(np.arange(COUNT) // 4) % 2)
    pool, train = load_pool(full), load_task(full).splits["train"]
    assert pool.examples.ids == train.ids
    assert pool.known.tolist() == train.targets.tolist()


@pytest.mark.parametrize("groups", [None, [f"p{row // 2}" for row in range(COUNT)]], ids=["rows", "groups"])
def test_only_labelled_rows_are_carved_out(groups: list[str] | None) -> None:
    data = table(groups=groups)
    alone = PART >= 0
    if groups is not None:  # of rows 0 and 1, 2 and 3, 4 and 5, the last pair alone is labelled on both sides
        alone = np.repeat((PART.reshape(-1, 2) >= 0).all(axis=1), 2)
    for protocol in (FixedSplit(), *(KFold(folds=5, fold=fold) for fold in range(5))):
        rows = protocol.rows(data)
        assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(COUNT))
        assert alone[rows["val"]].all()
        assert alone[rows["test"]].all()
        assert rows["train"].tolist() == sorted(rows["train"].tolist())
        if groups is not None:
            members = [{groups[row] for row in part} for part in rows.values()]
            assert len(set.union(*members)) == sum(map(len, members))
    rows = FixedSplit().rows(data)
    assert abs(len(rows["test"]) - 0.2 * alone.sum()) <= 2
    assert abs(len(rows["val"]) - 0.15 * alone.sum()) <= 2
    tested = [row for fold in range(5) for row in KFold(folds=5, fold=fold).rows(data)["test"].tolist()]
    assert sorted(tested) == np.flatnonzero(alone).tolist()


def test_a_site_is_left_out_only_if_it_is_labelled() -> None:
    targets = np.where(np.arange(COUNT) < 40, (np.arange(COUNT) // 4) % 2, PART)
    data = table(targets=targets, attributes={"site": SITES})
    rows = LeaveOneOut(value="KKI").rows(data)
    assert rows["test"].tolist() == list(range(40))
    assert (targets[rows["val"]] >= 0).all()
    assert set(np.flatnonzero(targets < 0)) <= set(rows["train"].tolist())
    with pytest.raises(DataError, match=r"labelled rows of site 'NYU', .* got none for 13 rows: i42, i45, .*; label"):
        LeaveOneOut(value="NYU").rows(data)


def test_shots_are_labelled_and_other_choices_keep_the_share_of_those_that_are_not() -> None:
    data, rows = table(), FixedSplit().rows(table())
    shots = Selection(shots=3).choose(data, rows)["train"]
    assert np.bincount(PART[shots]).tolist() == [3, 3]
    some = Selection(max_train=20).choose(data, rows)["train"]
    expected = 20 * (PART[rows["train"]] < 0).mean()
    assert abs((PART[some] < 0).sum() - expected) < 1


def test_a_row_without_a_label_is_refused_where_it_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy: expected a label .* of 'train', got none for 40 rows: i0, i3, i6"):
        load_task(table())
    split = ["train"] * 60 + ["val"] * 30 + ["test"] * 30
    given = table(split=split)
    (tmp_path / "labels.csv").write_text("id,label\ni0,yes\n")
    with pytest.raises(DataError, match="60 rows of 'train', got none for 20"):
        load_task(given)
    with pytest.raises(DataError, match="30 rows of 'val', got none for 10 rows: i60"):
        load_task(given, labels=tmp_path / "labels.csv")
    with pytest.raises(DataError, match="30 rows of 'val', got none for 10 rows: i60"):
        load_pool(given)
    with pytest.raises(DataError, match=r"30 rows of 'test', got none for 10 rows: i90"):
        load_split(given, "test")
    with pytest.raises(DataError, match="of 'test', got none for 40 rows"):
        load_split(table(), "test")
