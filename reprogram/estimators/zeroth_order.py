"""What all zeroth-order estimators share: asking at many points, adding up slopes, and the surrogate."""

import math

import torch
from torch import Tensor

from reprogram.distributed import average_over_processes
from reprogram.errors import ConfigError
from reprogram.objective import BatchObjective, Evaluation
from reprogram.types import StepLoss

MOST = 1_000_000
"""Largest count of an estimator: what a step asks about must fit into memory."""


def expect_whole(name: str, value: int, least: int = 1) -> None:
    """Refuses a count that is too small, or absurd.

    Raises:
        ConfigError: If ``value`` is not in ``least..MOST``.
    """
    if not least <= value <= MOST:
        bound = f">= {least}" if value < least else f"<= {MOST:,}"
        raise ConfigError(f"estimator.{name}: expected a whole number {bound}, got {value}")


def expect_positive(name: str, value: float) -> None:
    """Refuses a number that is no length or rate.

    Raises:
        ConfigError: If the value is not positive and finite.
    """
    if not 0 < value < math.inf:
        raise ConfigError(f"estimator.{name}: expected a number > 0, got {value}")


def expect_below(name: str, value: float, below: float = math.inf) -> None:
    """Refuses a number outside [0, below).

    Raises:
        ConfigError: If the value is negative, too large or no number.
    """
    if not 0 <= value < below:
        raise ConfigError(f"estimator.{name}: expected a number in [0, {below:g}), got {value}")


def evaluate_sides(objective: BatchObjective, points: Tensor) -> Evaluation:
    """Evaluates every example of the batch at S points.

    Shapes:
        points: [S, 1, D] shared by the batch, or [S, B, D] with each example's own.
        -> losses [S, B], log-probabilities [S, B, K_s], scores [S, B, K_t]
    """
    with torch.autocast(points.device.type, enabled=False):  # a difference of bfloat16 losses is noise
        return objective.evaluate_at(points)


def first_side(answers: Evaluation) -> Evaluation:
    """The answers at the first point alone, still with their axis of sides."""
    return Evaluation(*(part[:1] for part in answers))


def batch_losses(objective: BatchObjective, losses: Tensor) -> Tensor:
    """The loss of the whole global batch at each point, equal on all processes: [S, B] -> [S] float64.

    Their differences are small: summed in float32 they would depend on who has which example.
    """
    return average_over_processes((objective.weights.double() * losses.detach().double()).sum(dim=1))


def combine(slopes: Tensor, directions: Tensor) -> Tensor:
    """Adds up directions in proportion to the slopes found along them.

    Shapes:
        slopes: [Q, B], already weighted; directions: [Q, 1, D] or [Q, B, D] -> [D]
    """
    if directions.shape[1] == 1:
        slopes = slopes.sum(dim=1, keepdim=True)
    return slopes.flatten() @ directions.flatten(0, 1)


def step_loss(objective: BatchObjective, gradient: Tensor, answers: Evaluation) -> StepLoss:
    """Dresses an estimate as a loss to be differentiated.

    surrogate = loss + <theta, g> - stopgrad(<theta, g>): the loss in value, g for the program, and the exact gradient
    for a mapping that learns.

    Shapes:
        gradient: [D]; answers: [S, B, ...], of which each example's row is the mean over its S sides.
    """
    losses, log_probs, scores = (part.mean(dim=0) for part in answers)
    product = objective.theta @ gradient
    surrogate = (objective.weights * losses).sum() + (product - product.detach())
    return StepLoss(surrogate, losses.detach(), log_probs.detach(), scores.detach())
