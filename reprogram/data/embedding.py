"""Vectors as images, so that an image model can look at them.

Features: each is a gray square of ``cell`` x ``cell`` pixels, row by row in a near-square grid; the mean minus three
standard deviations of the training split is black, plus three is white. Correlations: the matrix itself, of which the
strict upper triangle says everything. Pixels that carry nothing are black and outside the ``support`` mask.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogram.data.base import Images, Rows
from reprogram.errors import ConfigError, DataError


def feature_range(training_features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values drawn black and white: mean -+ 3 standard deviations of the *training* split.

    Shapes:
        training_features: [N, F] -> two of [F].
    """
    values = training_features.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return mean - 3 * deviation, mean + 3 * deviation


def features_to_images(features: NDArray[Any], low: NDArray[Any], high: NDArray[Any], cell: int) -> Tensor:
    """Features as a grid of gray squares; values beyond the range are clipped, a constant feature is mid-gray.

    Shapes:
        features: [N, F], low: [F], high: [F] -> uint8 [N, 1, rows * cell, columns * cell].

    Raises:
        DataError: If a feature is missing (NaN) or infinite.
        ConfigError: If ``cell`` is below 1.
    """
    broken = int((~np.isfinite(features)).any(axis=1).sum())
    if broken:
        raise DataError(f"expected finite features, got {broken} rows with NaN or infinity; fill in or drop them")
    varies = high > low
    shares = np.where(varies, (features - low) / np.where(varies, high - low, 1.0), 0.5)
    grid = _grid(features.shape[1])
    tiles = np.zeros((len(features), grid[0] * grid[1]), dtype=np.uint8)
    tiles[:, : features.shape[1]] = np.rint(np.clip(shares, 0.0, 1.0) * 255.0)
    return _enlarge(torch.from_numpy(tiles).reshape(-1, 1, *grid), cell)


def feature_reader(
    features: NDArray[Any], cell: int
) -> Callable[[Mapping[str, Rows]], dict[str, tuple[Images, list[int]]]]:
    """``Table.read`` of features [N, F]: black and white are set by the training rows."""

    def read(rows: Mapping[str, Rows]) -> dict[str, tuple[Images, list[int]]]:
        if "train" not in rows:
            raise DataError(
                "features are drawn relative to the training rows of their own file, which a finished run does not "
                "know; add these rows to its file as a split"
            )
        low, high = feature_range(features[rows["train"]])
        return {
            name: (features_to_images(features[part], low, high, cell), part.tolist()) for name, part in rows.items()
        }

    return read


def feature_keys(features: NDArray[Any]) -> list[bytes]:
    """A hash of each row of features [N, F] as they are stored: rounded to gray, two rows may look the same."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in features]


def feature_support(num_features: int, cell: int) -> Tensor:
    """True where a square carries a feature: bool [rows * cell, columns * cell]."""
    rows, columns = _grid(num_features)
    return _enlarge((torch.arange(rows * columns) < num_features).reshape(rows, columns), cell)


def correlations_to_images(correlations: NDArray[Any]) -> Tensor:
    """Correlations r as pixels 255 (r + 1) / 2 of the strict upper triangle; the rest is black.

    Shapes:
        correlations: [N, n (n - 1) / 2] in the order of ``np.triu_indices(n, k=1)``, in [-1, 1] -> uint8 [N, 1, n, n].

    Raises:
        DataError: If the length is not that of a triangle or a value is out of range.
    """
    nodes = _num_nodes(correlations.shape[1])
    extreme = float(np.abs(correlations).max())
    if not extreme <= 1 + 1e-5:  # also true for NaN; rounding in float32 is forgiven
        raise DataError(f"expected correlations in [-1, 1], got a magnitude of {extreme:g}; check the scale")
    rows, columns = np.triu_indices(nodes, k=1)
    images = np.zeros((len(correlations), 1, nodes, nodes), dtype=np.uint8)
    images[:, 0, rows, columns] = np.rint((np.clip(correlations, -1.0, 1.0) + 1.0) * 127.5)
    return torch.from_numpy(images)


def correlation_support(num_correlations: int) -> Tensor:
    """True in the strict upper triangle: bool [n, n]."""
    nodes = _num_nodes(num_correlations)
    return torch.ones(nodes, nodes, dtype=torch.bool).triu(diagonal=1)


def _grid(num_features: int) -> tuple[int, int]:
    columns = math.ceil(math.sqrt(num_features))
    return math.ceil(num_features / columns), columns


def _enlarge(tiles: Tensor, cell: int) -> Tensor:
    if cell < 1:
        raise ConfigError(f"cell: expected a side of at least 1 pixel, got {cell}")
    return tiles.repeat_interleave(cell, dim=-2).repeat_interleave(cell, dim=-1)


def _num_nodes(num_correlations: int) -> int:
    nodes = (1 + math.isqrt(1 + 8 * num_correlations)) // 2
    if nodes * (nodes - 1) // 2 != num_correlations or nodes < 2:
        raise DataError(f"expected n (n - 1) / 2 correlations of n regions, got {num_correlations}")
    return nodes
