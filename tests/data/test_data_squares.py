"""The generated task."""

import pytest
import torch
from torch.nn import functional as F

from reprogram.data.squares import SquaresData
from reprogram.data.task import load_task
from reprogram.errors import ConfigError


def test_the_class_is_the_number_of_squares() -> None:
    data = load_task(SquaresData(60, 20, 30, seed=1).table())
    assert {name: len(examples) for name, examples in data.splits.items()} == {"train": 60, "val": 20, "test": 30}
    train = data.splits["train"]
    assert train.images.shape == (60, 1, 36, 36)
    assert train.targets.bincount().tolist() == [6] * 10
    shares = F.avg_pool2d(train.images.float() / 255, 9)
    assert shares.unique().tolist() == pytest.approx([0.0, 49 / 81])
    assert torch.equal((shares > 0).flatten(1).sum(dim=1), train.targets + 1)
    assert not train.images[:, :, ::9].any()  # the black frame
    assert data.spec.class_names[train.targets[0]] == str(int((shares[0] > 0).sum()))


def test_splits_and_seeds_draw_different_images() -> None:
    one, other = load_task(SquaresData(50, 50, 50, seed=0).table()), load_task(SquaresData(50, 50, 50, seed=1).table())
    assert not torch.equal(one.splits["train"].images, one.splits["val"].images)
    assert not torch.equal(one.splits["train"].images, other.splits["train"].images)
    with pytest.raises(ConfigError, match="at least 10 images"):
        SquaresData(50, 5, 50)
    with pytest.raises(ConfigError, match="seed"):
        SquaresData(seed=-1)
