"""One-sided random differences: the estimator of BAR."""

import torch
from torch import Tensor

from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.directions import Directions
from reprogram.estimators.smoothing import Smoothing
from reprogram.estimators.zeroth_order import combine, evaluate_sides, expect_positive, first_side, step_loss
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class OneSided(GradientEstimator):
    """Averages differences between displaced points and theta itself, along random directions.

    g = (b / Q) * sum_q (L(theta + mu u_q) - L(theta)) / mu * u_q

    Costs Q + 1 queries an example. With the default scale it is unbiased for a linear loss, and up to O(mu^2) for a
    quadratic one, since the directions are symmetric.

    Args:
        num_directions: Q >= 1.
        smoothing: mu > 0 (BAR's beta), in units of the program's parameters: of the whole vector for unit directions,
            of each parameter for the others.
        scale: b; ``None``: D for unit directions, 1 for the others, which makes it unbiased.
        directions: See ``Directions``.
        per_example: Whether each example has its own directions, else the batch shares them.
        adapt: Whether mu grows when the source does not answer to it; see ``Smoothing``.

    Raises:
        ConfigError: If a number is out of range or the directions have no such name.

    Reference:
        Transfer Learning without Knowing (BAR), Tsai, Chen, Ho, ICML 2020, arXiv:2007.08714. q = 25 or 55; the released
        code has beta = 0.1 and b = d. Differences: directions only over coordinates that can act.
    """

    def __init__(
        self,
        num_directions: int = 25,
        smoothing: float = 0.1,
        scale: float | None = None,
        directions: str = "sphere",
        per_example: bool = False,
        adapt: bool = False,
    ) -> None:
        super().__init__()
        self.directions = Directions(directions, num_directions, per_example)
        self.smoothing = Smoothing(smoothing, adapt)
        if scale is not None:
            expect_positive("scale", scale)
        self.scale = scale

    @property
    def queries_per_example(self) -> int:
        """Q + 1: every direction and theta itself."""
        return self.directions.count + 1

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``; the losses are those at theta."""
        theta, mu = objective.theta.detach(), self.smoothing.value
        directions = self.directions.draw(key, objective.indices, theta)
        offsets = torch.cat([torch.zeros_like(directions[:1]), mu * directions])
        answers = evaluate_sides(objective, theta + offsets)
        losses = answers.losses.detach()
        base, displaced = losses[:1], losses[1:]
        self.smoothing.observe(displaced, base, objective.weights)
        scale = self.directions.scale(len(theta)) if self.scale is None else self.scale
        slopes = scale / self.directions.count * (displaced - base) / mu
        return step_loss(objective, combine(objective.weights * slopes, directions), first_side(answers))

    def typical_point(self, theta: Tensor) -> Tensor:
        """See ``GradientEstimator``."""
        return theta + self.smoothing.value * self.directions.typical(theta)
