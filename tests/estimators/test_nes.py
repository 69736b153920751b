"""Rank shaping of NES."""

import math

import pytest
import torch
from torch import Tensor
from toys import Toy, estimate, quadratic

from reprogram.estimators.base import StepKey
from reprogram.estimators.nes import NES, utilities


def test_utilities_are_those_of_the_paper() -> None:
    found = utilities(torch.tensor([3.0, -1.0, 0.5, 9.0], dtype=torch.float64))
    raw = [max(0.0, math.log(3) - math.log(k)) for k in (1, 2, 3, 4)]
    ranked = [value / sum(raw) - 0.25 for value in raw]
    assert found.tolist() == pytest.approx([ranked[2], ranked[0], ranked[1], ranked[3]])
    assert found.sum().item() == pytest.approx(0)


def test_equal_losses_are_worth_the_same() -> None:
    distinct = utilities(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tied = utilities(torch.tensor([1.0, 2.0, 2.0, 4.0]))
    torch.testing.assert_close(tied[1:3], distinct[1:3].mean().expand(2))
    torch.testing.assert_close(tied[[0, 3]], distinct[[0, 3]])
    torch.testing.assert_close(utilities(torch.full((6,), 0.3)), torch.zeros(6))


def test_shaping_sees_ranks_only() -> None:
    losses, _ = quadratic()

    def stretched(points: Tensor, rows: Tensor) -> Tensor:
        return losses(points, rows) * 50 + 3

    shaped = NES(5, shaping=True)
    torch.testing.assert_close(estimate(shaped, Toy(losses), 0), estimate(shaped, Toy(stretched), 0))
    assert not torch.allclose(estimate(NES(5), Toy(losses), 0), estimate(NES(5), Toy(stretched), 0))


def test_the_shaped_gradient_is_the_sum_of_samples_by_what_they_are_worth() -> None:
    losses, _ = quadratic()
    toy, estimator = Toy(losses), NES(5, smoothing=0.2, shaping=True)
    samples = estimator.directions.draw(StepKey(0, 0, 2), toy.indices, toy.theta)[:, 0]
    samples = torch.cat([samples, -samples])
    rows = torch.arange(4)
    batch = torch.stack([toy.weights @ losses((toy.theta.detach() + 0.2 * e).expand(4, -1), rows) for e in samples])
    expected = -(utilities(batch) @ samples) / 0.2
    torch.testing.assert_close(estimate(estimator, toy, 2), expected)
