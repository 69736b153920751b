"""Random directions, a pure function of the step, the example and the direction's number."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.estimators.base import StepKey
from reprogram.estimators.zeroth_order import expect_whole

KINDS = ("sphere", "gaussian", "rademacher", "orthogonal")

ANY_STEP = StepKey(0, 0, 0)
"""Stands for no step in particular, where a typical direction is asked for."""


def stream(key: StepKey, example: int | None = None) -> np.random.Generator:
    """The random numbers of one step, shared or of one example: row ``example`` (>= 0) of its split.

    Philox is counter-based, so each example's numbers start at a place of their own, whoever draws them.
    """
    words = np.random.SeedSequence(key).generate_state(2, np.uint64)
    place = 0 if example is None else example + 1
    return np.random.Generator(np.random.Philox(key=words, counter=[0, 0, 0, place]))


class Directions:
    """Draws Q directions a step, for the whole batch or for each example.

    Args:
        kind: ``sphere``, uniform unit vectors · ``orthogonal``, a uniform random set of orthonormal ones (Q <= D) ·
            ``gaussian``, standard normal · ``rademacher``, -1 or 1 in each coordinate.
        count: Q.
        per_example: Whether each example has its own, else the batch shares them.

    Raises:
        ConfigError: If there is no such kind, or ``count < 1``.
    """

    def __init__(self, kind: str, count: int, per_example: bool) -> None:
        if kind not in KINDS:
            raise ConfigError(f"estimator.directions: expected one of {', '.join(KINDS)}, got '{kind}'")
        expect_whole("num_directions", count)
        self.kind, self.count, self.per_example = kind, count, per_example

    def scale(self, dimension: int) -> float:
        """What makes E[scale u u^T] = I: D for unit directions, else 1."""
        return float(dimension) if self.kind in ("sphere", "orthogonal") else 1.0

    def draw(self, key: StepKey, examples: Tensor, theta: Tensor) -> Tensor:
        """Draws the directions of one step.

        Shapes:
            examples: [B] global rows; theta: [D] gives size, type and device.
            -> [Q, B, D] if each example has its own, else [Q, 1, D]

        Raises:
            ConfigError: If more than D orthogonal directions are wanted.
        """
        if self.kind == "orthogonal" and self.count > len(theta):
            raise ConfigError(
                f"estimator.num_directions: expected at most {len(theta)} orthogonal directions, as the program has "
                f"parameters, got {self.count}; lower it or use estimator.directions=sphere"
            )
        streams = [stream(key, row) for row in examples.tolist()] if self.per_example else [stream(key)]
        drawn = torch.from_numpy(np.stack([self._draw_from(numbers, len(theta)) for numbers in streams], axis=1))
        return drawn.to(theta)

    def typical(self, theta: Tensor) -> Tensor:
        """One direction [D] that stands for all."""
        return Directions(self.kind, 1, False).draw(ANY_STEP, torch.zeros(1, dtype=torch.int64), theta)[0, 0]

    def _draw_from(self, numbers: np.random.Generator, dimension: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        shape = (self.count, dimension)
        if self.kind == "rademacher":
            return 2 * numbers.integers(0, 2, shape, dtype=np.int8).astype(np.float32) - 1
        drawn = numbers.standard_normal(shape, dtype=np.float32)
        if self.kind == "sphere":
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        if self.kind == "orthogonal":
            columns, triangle = np.linalg.qr(drawn.T)
            drawn = (columns * np.sign(np.diagonal(triangle))).T  # else the first coordinate always has one sign
        return drawn
