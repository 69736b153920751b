"""SPSA-GC: its schedules and its moment, by hand."""

import torch
from toys import D, Toy, estimate, quadratic

from reprogram.estimators.base import StepKey
from reprogram.estimators.spsa import SPSA


def test_three_steps_follow_the_formulae() -> None:
    losses, _ = quadratic()
    toy, rows = Toy(losses), torch.arange(4)
    estimator = SPSA(D, 2, a=0.3, a_offset=2.0, alpha=0.6, c=0.05, gamma=0.2, momentum=0.7).double()
    moment = torch.zeros(D, dtype=torch.float64)
    for k in (1, 2, 3):
        theta, reach = toy.theta.detach().clone(), 0.05 / k**0.2
        ghat = torch.zeros(D, dtype=torch.float64)
        for delta in estimator._perturbations(StepKey(0, 0, k), theta):
            plus, minus = (toy.weights @ losses((theta + sign * reach * delta).expand(4, -1), rows) for sign in (1, -1))
            ghat += (plus - minus) / (2 * reach * delta) / 2
        moment = 0.7 * moment + ghat
        update = estimate(estimator, toy, k)
        torch.testing.assert_close(update, 0.3 / (k + 2) ** 0.6 * (ghat + 0.7 * moment), rtol=1e-5, atol=1e-8)
        with torch.no_grad():
            toy.theta.sub_(update)


def test_perturbations_stay_away_from_zero_and_have_both_signs() -> None:
    drawn = SPSA(D, 200)._perturbations(StepKey(0, 0, 0), torch.zeros(D))
    assert drawn.abs().min() >= 0.5
    assert drawn.abs().max() <= 1
    assert abs(drawn.sign().mean().item()) < 0.1
    assert abs(drawn.abs().mean().item() - 0.75) < 0.02


def test_it_owns_its_update() -> None:
    assert SPSA(D).owns_update
