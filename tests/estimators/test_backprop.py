"""The white-box gradient on objectives whose gradient is known: scale 1, in the right units."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reprogram.estimators.backprop import Backprop
from reprogram.objective import BatchObjective, Evaluation


class Toy(BatchObjective):
    """Losses of three examples as a plain function of theta [D]."""

    def __init__(self, theta: Tensor, losses: Callable[[Tensor], Tensor], weights: Tensor) -> None:
        self.theta, self.losses, self.weights = theta, losses, weights

    def evaluate(self, theta: Tensor | None = None) -> Evaluation:
        losses = self.losses(self.theta if theta is None else theta)
        return Evaluation(losses, losses[:, None].expand(-1, 4), losses[:, None].expand(-1, 2))


WEIGHTS = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)


def gradient(objective: Toy) -> Tensor:
    (found,) = torch.autograd.grad(Backprop().step(objective).surrogate, objective.theta)
    return found


def test_a_linear_loss_gives_its_coefficients() -> None:
    theta = torch.randn(7, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(3, 7, dtype=torch.float64)
    objective = Toy(theta, lambda point: coefficients @ point, WEIGHTS)
    torch.testing.assert_close(gradient(objective), WEIGHTS @ coefficients)


def test_a_quadratic_loss_gives_its_slope() -> None:
    theta = torch.randn(7, dtype=torch.float64, requires_grad=True)
    centres = torch.randn(3, 7, dtype=torch.float64)
    objective = Toy(theta, lambda point: ((point - centres) ** 2).sum(1), WEIGHTS)
    torch.testing.assert_close(gradient(objective), 2 * (theta.detach() - WEIGHTS @ centres))


def test_the_surrogate_is_the_weighted_loss_and_the_rest_is_detached() -> None:
    theta = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    step = Backprop().step(Toy(theta, lambda point: torch.tensor([1.0, 2.0, 3.0]).double() * point, WEIGHTS))
    assert step.surrogate.item() == pytest.approx(2 * (0.25 + 0.5 + 1.5))
    assert step.losses.tolist() == [2.0, 4.0, 6.0]
    assert step.surrogate.requires_grad
    assert not any(part.requires_grad for part in (step.losses, step.log_probs, step.scores))
    assert step.log_probs.shape == (3, 4)
    assert step.scores.shape == (3, 2)


def test_an_example_of_weight_zero_does_not_act() -> None:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    coefficients = torch.tensor([[1.0, 0.0], [0.0, 1.0], [50.0, 50.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert gradient(Toy(theta, lambda point: coefficients @ point, weights)).tolist() == [0.5, 0.5]
