"""Smoothing grows while the source does not answer, and no further."""

import pytest
import torch
from torch import Tensor
from toys import D, Toy, train

from reprogram.estimators.one_sided import OneSided
from reprogram.estimators.smoothing import Smoothing
from reprogram.estimators.two_sided import TwoSided

WEIGHTS = torch.tensor([0.5, 0.5, 0.0])


def grown(one: Tensor, other: Tensor, adapt: bool = True) -> float:
    smoothing = Smoothing(0.2, adapt)
    smoothing.observe(one, other, WEIGHTS)
    return smoothing.value.item() / 0.2


@pytest.mark.parametrize(
    ("differences", "factor"),
    [
        ([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]], 1.5),  # three of four: the example of weight 0 does not count
        ([[0.0, 0.1, 0.0], [0.0, 0.1, 0.0]], 1.0),  # just half
        ([[1e-8, 0.0, 1.0], [0.0, 0.1, 1.0]], 1.5),  # below what float32 resolves
        ([[0.1, 0.1, 0.0], [0.1, 0.1, 0.0]], 1.0),
    ],
)
def test_it_grows_when_more_than_half_of_the_differences_vanish(differences: list[list[float]], factor: float) -> None:
    base = torch.ones(1, 3, dtype=torch.float64)
    displaced = base + torch.tensor(differences, dtype=torch.float64)
    assert grown(displaced, base) == pytest.approx(factor)
    assert grown(base.expand(2, -1), displaced) == pytest.approx(factor)
    assert grown(displaced, base, adapt=False) == pytest.approx(1)


def test_it_never_exceeds_sixteen_times_its_start() -> None:
    smoothing = Smoothing(0.2, adapt=True)
    factors = []
    for _ in range(9):
        smoothing.observe(torch.ones(2, 3), torch.ones(2, 3), WEIGHTS)
        factors.append(smoothing.value.item() / 0.2)
    assert factors == pytest.approx([min(1.5**n, 16) for n in range(1, 10)])


@pytest.mark.parametrize("side", [OneSided, TwoSided])
def test_an_oracle_that_rounds_is_asked_further_and_further_until_it_answers(side: type[OneSided | TwoSided]) -> None:
    def losses(points: Tensor, rows: Tensor) -> Tensor:
        return (points.sum(1) * 10).round() / 10

    theta = torch.zeros(D, dtype=torch.float64)
    for adapt in (False, True):
        estimator, toy = side(8, 0.02, adapt=adapt).double(), Toy(losses, theta)
        train(estimator, toy, range(10), rate=1e-9)
        assert bool(toy.theta.norm() > 0) is adapt  # without, no step ever finds a difference
    train(estimator, toy, range(10, 40), rate=1e-9)
    assert 0.04 < estimator.smoothing.value.item() < 0.3  # most differences are seen long before the bound of 0.32
