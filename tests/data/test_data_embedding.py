"""Vectors as images."""

import numpy as np
import pytest
import torch

from reprogram.data.embedding import (
    correlation_support,
    correlations_to_images,
    feature_range,
    feature_support,
    features_to_images,
)
from reprogram.data.protocols import Selection
from reprogram.data.sklearn_tasks import BreastCancerData
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError


def test_features_become_gray_squares_row_by_row() -> None:
    low, high = np.zeros(5), np.array([1.0, 10.0, 1.0, 1.0, 0.0])
    images = features_to_images(np.array([[0.2, 10.0, -3.0, 7.0, 0.4]]), low, high, cell=2)
    tiles = torch.tensor([[51, 255, 0], [255, 128, 0]], dtype=torch.uint8)  # the last feature is constant: mid-gray
    assert torch.equal(images, tiles.kron(torch.ones(2, 2, dtype=torch.uint8))[None, None])
    assert torch.equal(
        feature_support(5, cell=2), torch.tensor([[1, 1, 1, 1, 1, 1]] * 2 + [[1, 1, 1, 1, 0, 0]] * 2).bool()
    )


def test_the_range_is_three_standard_deviations() -> None:
    low, high = feature_range(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert low.tolist() == [-1.0, 5.0]
    assert high.tolist() == [5.0, 5.0]


def test_missing_features_and_empty_squares_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        feature_support(3, cell=0)
    with pytest.raises(DataError, match="1 rows with NaN"):
        features_to_images(np.array([[1.0], [np.nan]]), np.zeros(1), np.ones(1), cell=1)


def test_scaling_knows_only_the_training_split() -> None:
    few, all_rows = (
        load_task(BreastCancerData().table(), selection=Selection(max_train=40)),
        load_task(BreastCancerData().table()),
    )
    assert few.splits["test"].ids == all_rows.splits["test"].ids
    assert not torch.equal(few.splits["test"].images, all_rows.splits["test"].images)
    fewer_test = load_task(BreastCancerData().table(), selection=Selection(max_test=20))
    assert torch.equal(fewer_test.splits["train"].images, all_rows.splits["train"].images)


def test_breast_cancer_puts_malignant_second() -> None:
    targets = torch.cat([examples.targets for examples in load_task(BreastCancerData().table()).splits.values()])
    assert targets.bincount().tolist() == [357, 212]


def test_correlations_fill_the_upper_triangle() -> None:
    images = correlations_to_images(np.array([[-1.0, 0.0, 1.0]], dtype=np.float32))
    assert images[0, 0].tolist() == [[0, 0, 128], [0, 0, 255], [0, 0, 0]]
    assert correlation_support(3).tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    with pytest.raises(DataError, match="of n regions, got 4"):
        correlation_support(4)
    with pytest.raises(DataError, match=r"magnitude of 1\.5"):
        correlations_to_images(np.array([[0.0, 0.0, -1.5]]))
