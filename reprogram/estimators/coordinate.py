"""Symmetric differences along single coordinates: ZOO, with its Adam and Newton rules."""

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.directions import ANY_STEP, stream
from reprogram.estimators.zeroth_order import (
    batch_losses,
    evaluate_sides,
    expect_below,
    expect_positive,
    expect_whole,
    first_side,
    step_loss,
)
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss

RULES = ("adam", "newton", "gradient")
LEAST_CURVATURE = 0.1
EPSILON = 1e-8


class Coordinate(GradientEstimator):
    """Draws n of the D coordinates, the same for the whole batch, and finds the loss's slope along each.

    g_i = (L(theta + h e_i) - L(theta - h e_i)) / (2 h)
    h_i = (L(theta + h e_i) - 2 L(theta) + L(theta - h e_i)) / h^2

    ``adam`` steps by Adam with moments and a step counter of each coordinate's own; ``newton`` by lr g_i / h_i, with
    h_i at least 0.1, and 1 where it is not positive; both make their own steps. ``gradient`` hands (D / n) g_i to the
    optimiser instead: unbiased for linear and quadratic losses.

    Costs 2 n queries an example, ``newton`` 2 n + 1.

    Args:
        dimension: D.
        num_coordinates: n in 1..D.
        smoothing: h > 0, in units of the program's parameters.
        rule: ``adam``, ``newton`` or ``gradient``.
        lr: Step size of ``adam`` and ``newton``, > 0.
        beta1: Decay of Adam's first moment, in [0, 1).
        beta2: Decay of Adam's second moment, in [0, 1).

    Raises:
        ConfigError: If a number is out of range or the rule has no such name.

    Reference:
        ZOO, Chen et al., AISec 2017, arXiv:1708.03999 (Algorithms 1-3). Differences: coordinates are drawn evenly, not
        by importance; n, h and lr are 128, 1e-4 and 2e-3 there, but float32 losses and 8-bit images need a larger h.
    """

    first: Tensor
    second: Tensor
    counts: Tensor

    def __init__(
        self,
        dimension: int,
        num_coordinates: int = 8,
        smoothing: float = 0.1,
        rule: str = "adam",
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
    ) -> None:
        super().__init__()
        expect_whole("num_coordinates", num_coordinates)
        if num_coordinates > dimension:
            raise ConfigError(
                f"estimator.num_coordinates: expected at most {dimension}, as the program has parameters, got "
                f"{num_coordinates}"
            )
        if rule not in RULES:
            raise ConfigError(f"estimator.rule: expected one of {', '.join(RULES)}, got '{rule}'")
        expect_positive("smoothing", smoothing)
        expect_positive("lr", lr)
        expect_below("beta1", beta1, 1)
        expect_below("beta2", beta2, 1)
        self.dimension, self.num_coordinates, self.smoothing = dimension, num_coordinates, smoothing
        self.rule, self.lr, self.beta1, self.beta2 = rule, lr, beta1, beta2
        if rule == "adam":
            for name in ("first", "second", "counts"):
                self.register_buffer(name, torch.zeros(dimension))

    @property
    def owns_update(self) -> bool:
        """Whether the rule is one of ZOO's own."""
        return self.rule != "gradient"

    @property
    def queries_per_example(self) -> int:
        """2 n, and theta itself where the curvature is asked for."""
        return 2 * self.num_coordinates + (self.rule == "newton")

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``; the losses are means over all sides, with ``newton`` those at theta."""
        theta, h = objective.theta.detach(), self.smoothing
        chosen = self._draw(key).to(theta.device)
        offsets = theta.new_zeros(len(chosen), len(theta)).scatter(1, chosen[:, None], h)
        sides = [offsets, -offsets]
        if self.rule == "newton":
            sides.insert(0, torch.zeros_like(offsets[:1]))
        answers = evaluate_sides(objective, (theta + torch.cat(sides))[:, None])
        losses = batch_losses(objective, answers.losses)
        plus, minus = losses[-2 * len(chosen) :].chunk(2)
        slopes = ((plus - minus) / (2 * h)).to(theta)
        if self.rule == "gradient":
            change = self.dimension / len(chosen) * slopes
        elif self.rule == "newton":
            curvature = ((plus - 2 * losses[0] + minus) / h**2).to(theta)
            change = self.lr * slopes / curvature.masked_fill(curvature <= 0, 1.0).clamp(min=LEAST_CURVATURE)
            answers = first_side(answers)
        else:
            change = self._adam(chosen, slopes)
        return step_loss(objective, torch.zeros_like(theta).index_copy(0, chosen, change), answers)

    def typical_point(self, theta: Tensor) -> Tensor:
        """See ``GradientEstimator``."""
        point = theta.clone()
        point[self._draw(ANY_STEP)[0]] += self.smoothing
        return point

    def _draw(self, key: StepKey) -> Tensor:
        """Draws n coordinates, each once: [n]."""
        return torch.from_numpy(stream(key).choice(self.dimension, self.num_coordinates, replace=False))

    def _adam(self, chosen: Tensor, slopes: Tensor) -> Tensor:
        """What Adam subtracts from the chosen coordinates: [n]; only their moments and counters move."""
        self.first[chosen] = self.beta1 * self.first[chosen] + (1 - self.beta1) * slopes
        self.second[chosen] = self.beta2 * self.second[chosen] + (1 - self.beta2) * slopes**2
        self.counts[chosen] += 1
        first = self.first[chosen] / (1 - self.beta1 ** self.counts[chosen])
        second = self.second[chosen] / (1 - self.beta2 ** self.counts[chosen])
        return self.lr * first / (second.sqrt() + EPSILON)
