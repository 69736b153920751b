"""The length of a finite difference, which may grow until the source answers to it."""

import torch
from torch import Tensor, nn

from reprogram.distributed import sum_over_processes
from reprogram.estimators.zeroth_order import expect_positive

GROWTH = 1.5
MOST_GROWTH = 16.0
RESOLUTION = 1e-6
"""Relative difference of two float32 losses below which it is rounding."""


class Smoothing(nn.Module):
    """The step mu, constant or growing: an oracle that rounds its images or scores does not answer to a small one.

    After a step in which more than half of the differences vanished, over all processes, mu grows by 1.5, up to 16
    times its start. What it has grown by is a buffer.

    Args:
        start: First mu, in units of the program's parameters, > 0.
        adapt: Whether it may grow.

    Raises:
        ConfigError: If ``start <= 0``.
    """

    growth: Tensor

    def __init__(self, start: float, adapt: bool) -> None:
        super().__init__()
        expect_positive("smoothing", start)
        self.start, self.adapt = start, adapt
        self.register_buffer("growth", torch.ones(()))

    @property
    def value(self) -> Tensor:
        """Mu [] of this step."""
        return self.start * self.growth

    def observe(self, one: Tensor, other: Tensor, weights: Tensor) -> None:
        """Takes note of the losses of a step.

        Shapes:
            one: [Q, B] on one side of each difference; other: [Q, B] or [1, B] on the other.
            weights: [B] of the examples; those of weight 0 do not count.
        """
        if not self.adapt:
            return
        vanished = (one - other).abs() <= RESOLUTION * torch.maximum(one.abs(), other.abs())
        real = (weights > 0).expand_as(vanished)
        lost, asked = sum_over_processes(torch.stack([(vanished & real).sum(), real.sum()]))
        self.growth.copy_(torch.where(2 * lost > asked, (GROWTH * self.growth).clamp(max=MOST_GROWTH), self.growth))
