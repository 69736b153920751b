"""SPSA with gradient correction: the estimator and update rule of BlackVIP."""

import torch
from torch import Tensor

from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.directions import ANY_STEP, stream
from reprogram.estimators.zeroth_order import (
    batch_losses,
    evaluate_sides,
    expect_below,
    expect_positive,
    expect_whole,
    step_loss,
)
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class SPSA(GradientEstimator):
    """Perturbs all parameters at once, and looks ahead along what it has gone before.

    g = 1 / Q * sum_q (L(theta + c_k d_q) - L(theta - c_k d_q)) / (2 c_k d_q),    d_q uniform on [-1, -1/2] and [1/2, 1]
    m <- beta m + g
    theta <- theta - a_k (g + beta m)
    a_k = a / (k + o)^alpha,  c_k = c / k^gamma,  k = 1, 2, ...

    Costs 2 Q queries an example. g is unbiased for linear and quadratic losses; the rule makes its own steps.

    Args:
        dimension: D.
        num_directions: Q >= 1, shared by the batch.
        a: First step, > 0.
        a_offset: o >= 0.
        alpha: Decay of the step, >= 0.
        c: First displacement, > 0, of each of the program's parameters, in their units.
        gamma: Decay of the displacement, >= 0.
        momentum: beta in [0, 1); 0 is plain SPSA.

    Raises:
        ConfigError: If a number is out of range.

    Reference:
        BlackVIP, Oh et al., CVPR 2023, arXiv:2303.14773 (SPSA-GC; the constants are those of its code). SPSA: Spall,
        IEEE Transactions on Automatic Control 1992. Differences: none known.
    """

    steps: Tensor
    moment: Tensor

    def __init__(
        self,
        dimension: int,
        num_directions: int = 5,
        a: float = 0.01,
        a_offset: float = 1.0,
        alpha: float = 0.4,
        c: float = 0.01,
        gamma: float = 0.1,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        expect_whole("num_directions", num_directions)
        for name, value in {"a": a, "c": c}.items():
            expect_positive(name, value)
        for name, value in {"a_offset": a_offset, "alpha": alpha, "gamma": gamma}.items():
            expect_below(name, value)
        expect_below("momentum", momentum, 1)
        self.num_directions, self.momentum = num_directions, momentum
        self.a, self.a_offset, self.alpha, self.c, self.gamma = a, a_offset, alpha, c, gamma
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("moment", torch.zeros(dimension))

    @property
    def owns_update(self) -> bool:
        """Yes: a, alpha and the moment are part of the rule."""
        return True

    @property
    def queries_per_example(self) -> int:
        """2 Q: both sides of every perturbation."""
        return 2 * self.num_directions

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``; the losses are means over all sides."""
        theta = objective.theta.detach()
        self.steps += 1
        rate = self.a / (self.steps + self.a_offset) ** self.alpha
        reach = self.c / self.steps**self.gamma
        perturbations = self._perturbations(key, theta)
        answers = evaluate_sides(objective, (theta + reach * torch.cat([perturbations, -perturbations]))[:, None])
        plus, minus = batch_losses(objective, answers.losses).chunk(2)
        estimate = ((plus - minus)[:, None] / (2 * reach * perturbations)).mean(dim=0).to(theta)
        self.moment.mul_(self.momentum).add_(estimate)
        return step_loss(objective, rate * (estimate + self.momentum * self.moment), answers)

    def typical_point(self, theta: Tensor) -> Tensor:
        """See ``GradientEstimator``."""
        return theta + self.c * self._perturbations(ANY_STEP, theta)[0]

    def _perturbations(self, key: StepKey, theta: Tensor) -> Tensor:
        """Draws d: [Q, D]."""
        numbers, shape = stream(key), (self.num_directions, len(theta))
        signs = 2 * numbers.integers(0, 2, shape) - 1
        return torch.from_numpy(signs * numbers.uniform(0.5, 1, shape)).to(theta)
