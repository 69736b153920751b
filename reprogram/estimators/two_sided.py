"""Two-sided random differences: unbiased to second order, each query as informative as the other."""

import torch
from torch import Tensor

from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.directions import Directions
from reprogram.estimators.smoothing import Smoothing
from reprogram.estimators.zeroth_order import combine, evaluate_sides, step_loss
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class TwoSided(GradientEstimator):
    """Averages symmetric differences around theta, along random directions.

    g = (b / Q) * sum_q (L(theta + mu u_q) - L(theta - mu u_q)) / (2 mu) * u_q,    b = D for unit directions, else 1

    Costs 2 Q queries an example. Unbiased for linear and quadratic losses at any mu.

    Args:
        num_directions: Q >= 1.
        smoothing: mu > 0, in units of the program's parameters: of the whole vector for unit directions, of each
            parameter for the others.
        directions: See ``Directions``.
        per_example: Whether each example has its own directions, so that B examples explore B * Q of them at the price
            of Q; else the batch shares them.
        adapt: Whether mu grows when the source does not answer to it; see ``Smoothing``.

    Raises:
        ConfigError: If a number is out of range or the directions have no such name.

    Reference:
        An Optimal Algorithm for Bandit and Zero-Order Convex Optimization with Two-Point Feedback, Shamir, JMLR 2017,
        arXiv:1507.08752. Differences: other directions than the sphere; each example may have its own.
    """

    def __init__(
        self,
        num_directions: int = 1,
        smoothing: float = 1.0,
        directions: str = "sphere",
        per_example: bool = True,
        adapt: bool = False,
    ) -> None:
        super().__init__()
        self.directions = Directions(directions, num_directions, per_example)
        self.smoothing = Smoothing(smoothing, adapt)

    @property
    def queries_per_example(self) -> int:
        """2 Q: both sides of every direction."""
        return 2 * self.directions.count

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``; the losses are means over all sides."""
        theta, mu = objective.theta.detach(), self.smoothing.value
        directions = self.directions.draw(key, objective.indices, theta)
        answers = evaluate_sides(objective, theta + mu * torch.cat([directions, -directions]))
        plus, minus = answers.losses.detach().chunk(2)
        self.smoothing.observe(plus, minus, objective.weights)
        slopes = self.directions.scale(len(theta)) / self.directions.count * (plus - minus) / (2 * mu)
        return step_loss(objective, combine(objective.weights * slopes, directions), answers)

    def typical_point(self, theta: Tensor) -> Tensor:
        """See ``GradientEstimator``."""
        return theta + self.smoothing.value * self.directions.typical(theta)
