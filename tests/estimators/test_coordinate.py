"""ZOO's coordinate rules, each against what it is meant to be."""

import torch
from torch import Tensor, nn
from toys import D, Toy, estimate, quadratic, train

from reprogram.estimators.base import StepKey
from reprogram.estimators.coordinate import Coordinate


def test_all_coordinates_give_the_exact_gradient_of_a_quadratic() -> None:
    losses, gradient = quadratic()
    toy = Toy(losses)
    torch.testing.assert_close(estimate(Coordinate(D, D, rule="gradient"), toy, 0), gradient(toy.theta))


def test_coordinates_are_distinct_and_all_have_their_turn() -> None:
    estimator, seen = Coordinate(D, 4), set()
    for batch in range(20):
        chosen = estimator._draw(StepKey(0, 0, batch)).tolist()
        assert len(set(chosen)) == 4
        seen |= set(chosen)
    assert seen == set(range(D))


def test_adam_over_all_coordinates_is_adam() -> None:
    losses, gradient = quadratic()
    toy = Toy(losses)
    estimator = Coordinate(D, D, rule="adam", lr=0.05, beta1=0.8, beta2=0.95).double()
    parameter = nn.Parameter(toy.theta.detach().clone())
    adam = torch.optim.Adam([parameter], lr=0.05, betas=(0.8, 0.95))
    for batch in range(5):
        train(estimator, toy, range(batch, batch + 1))
        parameter.grad = gradient(parameter)
        adam.step()
    torch.testing.assert_close(toy.theta, parameter)


def test_adam_counts_the_steps_of_each_coordinate() -> None:
    losses, _ = quadratic()
    estimator, toy = Coordinate(D, 2, rule="adam", lr=0.05).double(), Toy(losses)
    visits = torch.zeros(D, dtype=torch.float64)
    for batch in range(6):
        chosen, before = estimator._draw(StepKey(0, 0, batch)), toy.theta.detach().clone()
        train(estimator, toy, range(batch, batch + 1))
        moved = (toy.theta - before).abs()
        assert set(moved.nonzero().flatten().tolist()) == set(chosen.tolist())
        first = chosen[visits[chosen] == 0]
        torch.testing.assert_close(moved[first], torch.full_like(moved[first], 0.05), rtol=1e-5, atol=0)
        visits[chosen] += 1
    assert torch.equal(estimator.counts, visits)


def test_newton_divides_by_the_curvature() -> None:
    curvature = torch.tensor([2.0, 0.5, 0.01, -3.0, 1.0, 0.05], dtype=torch.float64)

    def losses(points: Tensor, rows: Tensor) -> Tensor:
        return (0.5 * curvature * points**2 + points).sum(1)

    toy = Toy(losses, torch.ones(D, dtype=torch.float64))
    found = estimate(Coordinate(D, D, rule="newton", lr=0.5), toy, 0)
    slopes = curvature + 1
    divisors = torch.tensor([2.0, 0.5, 0.1, 1.0, 1.0, 0.1], dtype=torch.float64)  # not positive: 1; at least 0.1
    torch.testing.assert_close(found, 0.5 * slopes / divisors)


def test_only_the_rules_of_its_own_own_the_update() -> None:
    assert [Coordinate(D, 1, rule=rule).owns_update for rule in ("adam", "newton", "gradient")] == [True, True, False]
    assert [Coordinate(D, 3, rule=rule).queries_per_example for rule in ("adam", "newton", "gradient")] == [6, 7, 6]
