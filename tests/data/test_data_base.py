"""The checks no data set escapes."""

import logging
from dataclasses import replace

import pytest
import torch

from reprogram.data.base import Examples, TaskData
from reprogram.errors import DataError, ShapeError
from reprogram.types import TaskSpec

SPEC = TaskSpec(name="toy", class_names=("no", "yes"), image_size=(2, 3))


def examples(prefix: str, targets: list[int], groups: tuple[str, ...] | None = None, channels: int = 1) -> Examples:
    count = len(targets)
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, channels, 2, 3).contiguous()
    return Examples(
        images, torch.tensor(targets, dtype=torch.int64), tuple(f"{prefix}{row}" for row in range(count)), groups
    )


def splits(**changes: Examples) -> dict[str, Examples]:
    return {name: examples(name, [0, 1]) for name in ("train", "val", "test")} | changes


def test_subset_keeps_rows_together_in_the_asked_order() -> None:
    part = examples("a", [0, 1, 0, 1], ("p", "q", "r", "s")).subset([3, 0])
    assert part.ids == ("a3", "a0")
    assert part.groups == ("s", "p")
    assert part.targets.tolist() == [1, 0]
    assert part.images[:, 0, 0, 0].tolist() == [3, 0]
    assert len(part.subset([])) == 0
    assert part.trust is None
    assert part.weights() is None
    with pytest.raises(ShapeError, match="mask"):
        part.subset(torch.tensor([True, False]))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 2, 3), torch.zeros(2, 2, 2, 3).byte(), torch.zeros(2, 2, 3).byte()]
)
def test_images_of_another_kind_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="uint8"):
        Examples(images, torch.tensor([0, 1]), ("a", "b"))


@pytest.mark.parametrize(
    ("targets", "ids", "groups", "error", "message"),
    [
        (torch.tensor([0, 1], dtype=torch.int32), ("a", "b"), None, ShapeError, "int64"),
        (torch.tensor([0]), ("a", "b"), None, ShapeError, "targets int64"),
        (torch.tensor([0, 1]), ("a",), None, ShapeError, "2 ids, got 1"),
        (torch.tensor([0, 1]), ("a", "b"), ("p",), ShapeError, "2 groups, got 1"),
        (torch.tensor([0, 1]), ("a", "a"), None, DataError, "unique ids, got a more"),
        (torch.tensor([0, -1]), ("a", "b"), None, DataError, "got -1"),
    ],
)
def test_columns_that_do_not_fit_are_refused(targets, ids, groups, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        Examples(torch.zeros(2, 1, 2, 3, dtype=torch.uint8), targets, ids, groups)


def test_trust_goes_with_its_example_and_is_a_number_in_0_1() -> None:
    four = examples("a", [0, 1, 0, 1])
    trusted = replace(four, trust=torch.tensor([0.25, 1.0, 0.5, 0.75]))
    part = trusted.subset([3, 0])
    assert part.trust is not None
    assert part.trust.tolist() == [0.75, 0.25]
    weights = trusted.weights()
    assert weights is not None
    assert weights.tolist() == [0.25, 1.0, 0.5, 0.75]
    for wrong in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(DataError, match=r"trust in \(0, 1\], got"):
            replace(four, trust=torch.tensor([wrong, 1.0, 1.0, 1.0]))
    for other in (torch.ones(3), torch.ones(4).double()):
        with pytest.raises(ShapeError, match=r"trust float32 \[4\], got"):
            replace(four, trust=other)


def test_a_leaking_group_is_named() -> None:
    leaking = splits(train=examples("a", [0, 1], ("p1", "p2")), test=examples("b", [0, 1], ("p2", "p3")))
    with pytest.raises(DataError, match="1 groups leak: they are in both 'train' and 'test': p2;"):
        TaskData(SPEC, leaking)


def test_an_id_in_two_splits_is_named() -> None:
    with pytest.raises(DataError, match="2 ids are in both 'val' and 'test': x0, x1"):
        TaskData(SPEC, splits(val=examples("x", [0, 1]), test=examples("x", [1, 0])))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val": examples("v", [])}, "'val' is empty"),
        ({"test": examples("t", [0, 2])}, "below 2 .*got 2 in 'test'"),
        ({"test": examples("t", [0, 1], channels=3)}, "in 'test'"),
        ({"more": examples("m", [0, 1])}, "expected the splits"),
    ],
)
def test_splits_that_cannot_give_honest_numbers_are_refused(changed: dict[str, Examples], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TaskData(SPEC, splits(**changed))


def test_a_class_that_a_split_lacks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        TaskData(SPEC, splits(val=examples("a", [0, 0])))
    assert caplog.messages == ["toy: split 'val' has no example of ['yes']"]
    with pytest.raises(DataError, match=r"toy: expected training examples of every class, got none of \['yes'\]"):
        TaskData(SPEC, splits(train=examples("a", [0, 0])))
