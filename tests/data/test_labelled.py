"""A training split that is only what a file lists, with the labels the file gives."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reprogram.data.base import Examples, Table, in_memory
from reprogram.data.labelled import labelled
from reprogram.data.protocols import FixedSplit, Selection
from reprogram.data.task import load_task
from reprogram.errors import DataError

NAMES = ("no", "yes")


def table(**changes: Any) -> Table:
    facts: dict[str, Any] = {
        "name": "toy",
        "class_names": NAMES,
        "targets": np.arange(12) % 2,
        "ids": [f"i{row}" for row in range(12)],
        "read": in_memory(torch.arange(12).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()),
        "split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3,
        "groups": [f"g{row}" for row in range(12)],
        "attributes": {"site": [f"s{row}" for row in range(12)]},
    }
    return Table(**facts | changes)


def file(folder: Path, *lines: str) -> str:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / "labels.csv")


def train() -> Examples:
    return load_task(table()).splits["train"]


def test_the_train_split_is_what_the_file_lists_in_the_old_order(tmp_path: Path) -> None:
    path = file(tmp_path, "round,id,label", "0,i4,no", "1, i1 , no", "1,i0,yes")
    data, whole = load_task(table(), labels=path), load_task(table())
    part = data.splits["train"]
    assert part.ids == ("i0", "i1", "i4")
    assert part.targets.tolist() == [1, 0, 0]  # the data say 0, 1, 0
    assert part.images[:, 0, 0, 0].tolist() == [0, 1, 4]
    assert part.groups == ("g0", "g1", "g4")
    assert part.attributes == {"site": ("s0", "s1", "s4")}
    for name in ("val", "test"):
        assert data.splits[name].ids == whole.splits[name].ids
        assert torch.equal(data.splits[name].targets, whole.splits[name].targets)
    assert data.spec.class_names == NAMES


def test_the_protocol_and_the_handling_of_duplicates_come_first(tmp_path: Path) -> None:
    stack = torch.arange(12).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    stack[2] = stack[9]
    twice = table(read=in_memory(stack))
    path = file(tmp_path, "id,label", "i2,no", "i3,yes")
    with pytest.raises(DataError, match=r"5 training rows, got 1 rows: i2;"):
        load_task(twice, selection=Selection(duplicates="drop"), labels=path)
    carved = load_task(table(split=None), FixedSplit(seed=3)).splits["train"].ids
    path = file(tmp_path, "id,label", *(f"{name},yes" for name in carved[:4]))
    assert load_task(table(split=None), FixedSplit(seed=3), labels=path).splits["train"].ids == carved[:4]


def test_a_class_without_a_label_is_told_and_not_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = file(tmp_path, "id,label", "i1,yes", "i3,yes")
    with caplog.at_level(logging.WARNING):
        data = load_task(table(), labels=path)
    assert data.splits["train"].targets.tolist() == [1, 1]
    assert "split 'train' has no example of ['no']" in caplog.text
    with pytest.raises(DataError, match=r"training examples of every class, got none of \['no'\]"):
        load_task(table(targets=np.array([1] * 6 + [0, 1] * 3)))


def test_trust_comes_along_where_something_is_not_trusted_fully(tmp_path: Path) -> None:
    path = file(tmp_path, "id,label,trust", "i4,no,0.5", "i1,no,", "i0,yes,1")
    part = labelled(train(), path, NAMES)
    assert part.ids == ("i0", "i1", "i4")
    assert part.trust is not None
    assert part.trust.tolist() == [1.0, 1.0, 0.5]
    assert labelled(train(), file(tmp_path, "id,label,trust", "i4,no,1", "i1,no,"), NAMES).trust is None
    assert labelled(train(), file(tmp_path, "id,label", "i4,no"), NAMES).trust is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,label"], r"got 0 rows of \['id', 'label'\]; label at least one"),
        (["id,class", "i1,no"], r"got 1 rows of \['id', 'class'\]; add the column label"),
        (["name", "i1"], "add the column id, label"),
        (["id,label", "i1,maybe", "i2,no", "i3,1"], r"among \['no', 'yes'\], got \['maybe', '1'\] in 2 rows: i1, i3;"),
        (["id,label", "i1,"], r"got \[''\] in 1 rows: i1"),
        (["id,label", "i1,no", "i2,no", "i1,yes"], "each id once, got 2 rows: i1, i1;"),
        (["id,label", "i1,no", "i7,no", "new,yes"], "ids of the 6 training rows, got 2 rows: i7, new;"),
        (["id,label,trust", "i1,no,0", "i2,no,1.5", "i3,no,1"], r"\(0, 1\], got \['0', '1.5'\] in 2 rows: i1, i2;"),
        (["id,label,trust", "i1,no,nan", "i2,no,sure"], r"\(0, 1\], got \['nan', 'sure'\] in 2 rows"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=rf"protocol\.labels: .*labels\.csv: expected .*{message}"):
        labelled(train(), file(tmp_path, *lines), NAMES)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*absent\.csv; put it back, or set protocol\.labels"):
        labelled(train(), tmp_path / "absent.csv", NAMES)
    (tmp_path / "bytes.csv").write_bytes(b"id,label\n\xff\xfe,no\n")
    with pytest.raises(DataError, match="CSV file in UTF-8"):
        labelled(train(), tmp_path / "bytes.csv", NAMES)
    with pytest.raises(DataError, match="Is a directory"):
        labelled(train(), tmp_path, NAMES)
