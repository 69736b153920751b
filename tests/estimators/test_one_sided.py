"""BAR's formula, term by term."""

import torch
from toys import D, Toy, estimate, quadratic

from reprogram.estimators.base import StepKey
from reprogram.estimators.one_sided import OneSided


def test_it_is_the_formula_of_the_paper_with_its_own_scale() -> None:
    losses, _ = quadratic()
    toy = Toy(losses)
    estimator = OneSided(4, smoothing=0.3, scale=2.5).double()
    directions = estimator.directions.draw(StepKey(0, 0, 3), toy.indices, toy.theta)[:, 0]
    rows = torch.arange(4)
    expected = torch.zeros(D, dtype=torch.float64)
    for direction in directions:
        for row, weight in enumerate(toy.weights):
            theta = toy.theta.detach()
            base = losses(theta[None], rows[row : row + 1])
            moved = losses((theta + 0.3 * direction)[None], rows[row : row + 1])
            expected += weight * 2.5 * (moved - base) / 0.3 * direction / 4
    torch.testing.assert_close(estimate(estimator, toy, 3), expected)


def test_the_default_scale_is_the_dimension_for_unit_directions_and_one_for_others() -> None:
    losses, _ = quadratic()
    for kind, scale in (("sphere", float(D)), ("orthogonal", float(D)), ("gaussian", 1.0), ("rademacher", 1.0)):
        default, stated = (OneSided(3, scale=b, directions=kind).double() for b in (None, scale))
        assert torch.equal(estimate(default, Toy(losses), 0), estimate(stated, Toy(losses), 0))
