"""The white-box gradient on objectives whose gradient is known: scale 1, in the right units."""

import pytest
import torch
from torch import Tensor
from toys import Losses, Toy, chain, estimate

from reprogram.estimators.backprop import Backprop
from reprogram.estimators.base import StepKey

WEIGHTS = (0.25, 0.25, 0.5)


def gradient(theta: Tensor, losses: Losses, weights: tuple[float, ...] = WEIGHTS) -> Tensor:
    return estimate(Backprop(), Toy(losses, theta, weights), 0)


def test_a_linear_loss_gives_its_coefficients() -> None:
    slopes = torch.randn(3, 7, dtype=torch.float64)
    found = gradient(torch.randn(7, dtype=torch.float64), lambda points, rows: (points * slopes[rows]).sum(1))
    torch.testing.assert_close(found, torch.tensor(WEIGHTS).double() @ slopes)


def test_a_quadratic_loss_gives_its_slope() -> None:
    theta, centres = torch.randn(7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    found = gradient(theta, lambda points, rows: ((points - centres[rows]) ** 2).sum(1))
    torch.testing.assert_close(found, 2 * (theta - torch.tensor(WEIGHTS).double() @ centres))


def test_the_surrogate_is_the_weighted_loss_and_the_rest_is_detached() -> None:
    toy = Toy(lambda points, rows: points[:, 0] * (rows + 1), torch.tensor([2.0]), WEIGHTS)
    step = Backprop().step(toy, StepKey(0, 0, 0))
    assert step.surrogate.item() == pytest.approx(2 * (0.25 + 0.5 + 1.5))
    assert step.losses.tolist() == [2.0, 4.0, 6.0]
    assert step.surrogate.requires_grad
    assert not any(part.requires_grad for part in (step.losses, step.log_probs, step.scores))
    assert step.log_probs[1].tolist() == [4.0, 8.0, 12.0]
    assert step.scores[2].tolist() == [6.0, 6.0]


def test_an_example_of_weight_zero_does_not_act() -> None:
    slopes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [50.0, 50.0]])
    found = gradient(torch.zeros(2), lambda points, rows: (points * slopes[rows]).sum(1), (0.5, 0.5, 0.0))
    assert found.tolist() == [0.5, 0.5]


def test_it_asks_once_at_theta_and_leaves_the_step_to_the_optimiser() -> None:
    estimator = Backprop()
    assert estimator.queries_per_example == 1
    assert estimator.typical_point(torch.zeros(2)) is None
    assert not estimator.owns_update


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_batch_in_parts_gives_what_it_gives_at_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, source = chain(5, hidden=False)
    learned = objective.learned()
    whole = Backprop().step(objective, StepKey(0, 0, 0))
    expected = torch.autograd.grad(whole.surrogate, learned)
    monkeypatch.setattr(source, "at_once", lambda graph=False: most)
    source.answers = []
    parts = Backprop().step(objective, StepKey(0, 0, 0))
    assert [len(answer) for answer in source.answers] == [min(most, 5 - start) for start in range(0, 5, most)]
    assert len(learned) == 3  # theta, and both of the mapping
    torch.testing.assert_close(torch.autograd.grad(parts.surrogate, learned), expected)
    torch.testing.assert_close([part.detach() for part in parts], [part.detach() for part in whole])
