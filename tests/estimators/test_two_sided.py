"""Two-sided differences: exact where they can be, and more directions for the same price."""

import pytest
import torch
from toys import D, Toy, estimate, quadratic

from reprogram.estimators.two_sided import TwoSided


@pytest.mark.parametrize("per_example", [True, False])
def test_a_full_orthogonal_set_gives_the_gradient_of_a_quadratic_at_any_length(per_example: bool) -> None:
    losses, gradient = quadratic()
    toy = Toy(losses)
    for smoothing in (0.1, 3.0):
        estimator = TwoSided(D, smoothing, directions="orthogonal", per_example=per_example).double()
        torch.testing.assert_close(estimate(estimator, toy, 0), gradient(toy.theta), rtol=1e-5, atol=1e-5)


def test_own_directions_explore_more_at_the_same_price() -> None:
    losses, _ = quadratic()
    toy = Toy(losses, weights=[0.25] * 4)

    def error(per_example: bool) -> float:
        estimator = TwoSided(1, per_example=per_example).double()
        estimates = torch.stack([estimate(estimator, toy, batch) for batch in range(200)])
        return estimates.var(dim=0).sum().item()

    assert TwoSided(1, per_example=True).queries_per_example == TwoSided(1, per_example=False).queries_per_example == 2
    assert error(True) < 0.8 * error(False)
