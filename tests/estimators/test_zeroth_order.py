"""What every zeroth-order estimator keeps: scale 1, the declared price, exact resume, and independence of processes."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toys import D, Toy, chain, estimate, linear, quadratic, train

from reprogram.errors import ConfigError
from reprogram.estimators import smoothing, zeroth_order
from reprogram.estimators.backprop import Backprop
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.cma_es import CMAES
from reprogram.estimators.coordinate import Coordinate
from reprogram.estimators.nes import NES
from reprogram.estimators.one_sided import OneSided
from reprogram.estimators.spsa import SPSA
from reprogram.estimators.two_sided import TwoSided
from reprogram.types import StepLoss

Make = Callable[[int], GradientEstimator]

GRADIENTS: dict[str, Make] = {
    "one-sided": lambda _: OneSided(8),
    "one-sided-own": lambda _: OneSided(3, per_example=True),
    "one-sided-gaussian": lambda _: OneSided(8, directions="gaussian"),
    "one-sided-orthogonal": lambda _: OneSided(4, 0.5, directions="orthogonal"),
    "two-sided": lambda _: TwoSided(2),
    "two-sided-shared": lambda _: TwoSided(4, 0.5, per_example=False),
    "two-sided-gaussian": lambda _: TwoSided(2, directions="gaussian"),
    "two-sided-rademacher": lambda _: TwoSided(2, directions="rademacher"),
    "two-sided-orthogonal": lambda _: TwoSided(2, directions="orthogonal"),
    "two-sided-adaptive": lambda _: TwoSided(2, adapt=True),
    "nes": lambda _: NES(6),
    "nes-own": lambda _: NES(3, per_example=True),
    "coordinate": lambda size: Coordinate(size, 2, rule="gradient"),
    "spsa": lambda size: SPSA(size, 6, a=1.0, a_offset=0.0, alpha=0.0, gamma=0.0, momentum=0.0),
}
RULES: dict[str, Make] = {
    "nes-shaped": lambda _: NES(4, shaping=True),
    "coordinate-adam": lambda size: Coordinate(size, 2, rule="adam", lr=0.1),
    "coordinate-newton": lambda size: Coordinate(size, 2, rule="newton", lr=0.5),
    "spsa-gc": lambda size: SPSA(size, 3, a=0.1),
    "cma-es": lambda size: CMAES(size),
    "cma-es-full": lambda size: CMAES(size, population=7, covariance="full"),
}
ALL = GRADIENTS | RULES
AT_THETA = ("one-sided", "coordinate-newton")

each = pytest.mark.parametrize("name", ALL)


def double(make: Make) -> GradientEstimator:
    return make(D).double()


@pytest.mark.parametrize("kind", [linear, quadratic], ids=["linear", "quadratic"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_the_mean_over_many_steps_is_the_gradient_at_scale_one(
    name: str, kind: Callable[[], tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]]
) -> None:
    losses, gradient = kind()
    estimator, toy = double(GRADIENTS[name]), Toy(losses)
    estimates = torch.stack([estimate(estimator, toy, batch) for batch in range(400)])
    error = estimates.std(dim=0) / len(estimates) ** 0.5
    expected = gradient(toy.theta)
    assert error.norm() < 0.15 * expected.norm()  # small enough to find a wrong factor
    assert ((estimates.mean(dim=0) - expected).abs() < 4 * error + 1e-9).all()


@each
def test_the_surrogate_is_the_loss_in_value_and_rows_are_those_of_the_examples(name: str) -> None:
    losses, _ = quadratic()
    toy = Toy(losses)
    step = double(ALL[name]).step(toy, StepKey(0, 0, 0))
    torch.testing.assert_close(step.surrogate, (toy.weights * step.losses).sum())
    torch.testing.assert_close(step.log_probs, step.losses[:, None] * torch.tensor([1.0, 2.0, 3.0]).double())
    torch.testing.assert_close(step.scores, step.losses[:, None].expand(-1, 2))
    assert not any(part.requires_grad for part in step[1:])
    if name.startswith(AT_THETA):
        torch.testing.assert_close(step.losses, losses(toy.theta.detach().expand(4, -1), torch.arange(4)))
    else:
        assert (step.losses - losses(toy.theta.detach().expand(4, -1), torch.arange(4))).abs().max() > 1e-6


@each
def test_the_estimate_is_a_function_of_the_key(name: str) -> None:
    losses, _ = quadratic()
    one, same, other = (estimate(double(ALL[name]), Toy(losses), batch) for batch in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    surrogate = double(ALL[name]).step(seeded := Toy(losses), StepKey(1, 0, 4)).surrogate
    assert not torch.equal(torch.autograd.grad(surrogate, seeded.theta)[0], one)


def step_of_processes(
    monkeypatch: pytest.MonkeyPatch, estimators: list[GradientEstimator], parts: list[Toy], key: StepKey
) -> list[StepLoss]:
    """One step of several processes, run in this one: first what each says, then the step with the answer of all."""
    said: dict[str, list[Tensor]] = {"average": [], "sum": []}

    def says(what: str) -> Callable[[Tensor], Tensor]:
        return lambda tensor: said[what].append(tensor) or tensor.clone()  # type: ignore[func-returns-value]

    monkeypatch.setattr(zeroth_order, "average_over_processes", says("average"))
    monkeypatch.setattr(smoothing, "sum_over_processes", says("sum"))
    for estimator, part in zip(copy.deepcopy(estimators), parts, strict=True):
        estimator.step(part, key)
    monkeypatch.setattr(zeroth_order, "average_over_processes", lambda _: torch.stack(said["average"]).mean(dim=0))
    monkeypatch.setattr(smoothing, "sum_over_processes", lambda _: torch.stack(said["sum"]).sum(dim=0))
    return [estimator.step(part, key) for estimator, part in zip(estimators, parts, strict=True)]


@each
def test_two_processes_go_the_way_of_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    losses, _ = quadratic()
    whole, toy = double(ALL[name]), Toy(losses)
    several = [double(ALL[name]) for _ in range(2)]
    for batch in range(3):
        parts = [toy.part(start, of=2) for start in range(2)]
        steps = step_of_processes(monkeypatch, several, parts, StepKey(0, 0, batch))
        monkeypatch.undo()
        shares = [torch.autograd.grad(step.surrogate, part.theta)[0] for step, part in zip(steps, parts, strict=True)]
        alone = estimate(whole, toy, batch)
        torch.testing.assert_close(torch.stack(shares).mean(dim=0), alone, rtol=1e-6, atol=1e-9)
        if whole.owns_update:  # what has a state must be equal everywhere
            torch.testing.assert_close(shares[0], shares[1], rtol=0, atol=0)
        with torch.no_grad():
            toy.theta.sub_(0.1 * alone)


@each
def test_a_saved_state_continues_exactly(name: str) -> None:
    losses, _ = quadratic()
    straight, toy = ALL[name](D), Toy(losses, torch.linspace(-1, 1, D))
    train(straight, toy, range(4), rate=0.5)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    again, resumed = ALL[name](D), Toy(losses, toy.theta.detach())
    again.load_state_dict(torch.load(file, weights_only=True))
    train(straight, toy, range(4, 8), rate=0.5)
    train(again, resumed, range(4, 8), rate=0.5)
    assert torch.equal(resumed.theta, toy.theta)
    fresh, forgetful = ALL[name](D), Toy(losses, resumed.theta.detach())
    if name in ("coordinate-adam", "spsa-gc", "cma-es", "cma-es-full"):  # the state matters
        assert not torch.equal(estimate(straight, toy, 8), estimate(fresh, forgetful, 8))


@each
def test_a_step_costs_what_was_declared_and_leaves_no_graph_in_the_source(name: str) -> None:
    for examples in (1, 3):
        objective, source = chain(examples)
        estimator = ALL[name](len(objective.theta)).double()
        step = estimator.step(objective, StepKey(0, 0, 0))
        assert sum(map(len, source.answers)) == estimator.queries_per_example * examples
        step.surrogate.backward()  # the source refuses to be part of it
        assert objective.theta.grad is not None
        assert objective.theta.grad.abs().sum() > 0
        assert all(parameter.grad is None for parameter in source.parameters())


@each
def test_a_mapping_that_learns_gets_its_exact_gradient(name: str) -> None:
    objective, source = chain(3)
    step = ALL[name](len(objective.theta)).double().step(objective, StepKey(0, 0, 0))
    mapping = objective.classifier.mapping
    found = torch.autograd.grad(step.surrogate, list(mapping.parameters()))
    answers = torch.cat(source.answers)
    sides = len(answers) // 3  # many points are asked about example by example
    answers = answers.view(3, sides, 5).transpose(0, 1) if sides > 3 else answers.view(sides, 3, 5)
    if name.startswith(AT_THETA):
        answers = answers[:1]
    losses = torch.stack([objective._loss(mapping(side), objective.targets) for side in answers]).mean(dim=0)
    expected = torch.autograd.grad((objective.weights * losses).sum(), list(mapping.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert other.abs().sum() > 0


@pytest.mark.parametrize("side", [OneSided, TwoSided])
def test_orthogonal_directions_of_a_full_set_give_the_gradient_of_backprop(side: type[OneSided | TwoSided]) -> None:
    objective, _ = chain(3, hidden=False)
    dimension = len(objective.theta)
    exact = estimate(Backprop(), objective, 0)
    for per_example in (False, True):
        estimator = side(dimension, 1e-5, directions="orthogonal", per_example=per_example).double()
        torch.testing.assert_close(estimate(estimator, objective, 0), exact, rtol=1e-3, atol=1e-3 * exact.norm().item())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_descends_a_quadratic(name: str) -> None:
    losses, gradient = quadratic()
    toy = Toy(losses, torch.linspace(-3, 3, D, dtype=torch.float64))
    start = gradient(toy.theta).norm()
    train(double(RULES[name]), toy, range(400), rate=0.005 if name == "nes-shaped" else 1.0)
    assert gradient(toy.theta).norm() < 0.1 * start


@each
def test_a_typical_point_is_one_of_those_that_are_asked_about(name: str) -> None:
    estimator, theta = double(ALL[name]), torch.linspace(-1, 1, D, dtype=torch.float64)
    typical = estimator.typical_point(theta)
    assert typical is not None
    assert typical.shape == (D,)
    reach = (typical - theta).norm()
    asked: list[Tensor] = []
    losses, _ = linear()

    def recording(points: Tensor, rows: Tensor) -> Tensor:
        asked.extend(points)
        return losses(points, rows)

    for batch in range(20):
        estimate(double(ALL[name]), Toy(recording, theta), batch)
    reaches = (torch.stack(asked) - theta).norm(dim=1)
    reaches = reaches[reaches > 0]
    assert reaches.min() - 1e-9 <= reach <= reaches.max() + 1e-9


def test_an_example_of_weight_zero_does_not_act() -> None:
    slopes = torch.eye(3, dtype=torch.float64)

    def losses(points: Tensor, rows: Tensor) -> Tensor:
        return (points * slopes[rows]).sum(1)

    for make in (TwoSided(3, directions="orthogonal"), OneSided(3, directions="orthogonal")):
        toy = Toy(losses, torch.zeros(3, dtype=torch.float64), (0.75, 0.25, 0.0))
        expected = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)  # D orthogonal directions: exact
        torch.testing.assert_close(estimate(make, toy, 0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneSided(0), r"estimator\.num_directions: expected a whole number >= 1, got 0"),
        (lambda: OneSided(smoothing=0.0), r"estimator\.smoothing: expected a number > 0, got 0"),
        (lambda: OneSided(smoothing=float("nan")), r"estimator\.smoothing: .* got nan"),
        (lambda: OneSided(scale=-1.0), r"estimator\.scale: expected a number > 0, got -1"),
        (lambda: TwoSided(directions="cube"), r"estimator\.directions: expected one of sphere, .* got 'cube'"),
        (lambda: TwoSided(-1), r"estimator\.num_directions: .* got -1"),
        (lambda: TwoSided(smoothing=float("inf")), r"estimator\.smoothing: .* got inf"),
        (lambda: NES(smoothing=-0.1), r"estimator\.smoothing: .* got -0\.1"),
        (lambda: NES(0), r"estimator\.num_directions: .* got 0"),
        (lambda: NES(shaping=True, per_example=True), r"estimator\.shaping: .* estimator\.per_example=false"),
        (lambda: SPSA(D, 0), r"estimator\.num_directions: .* got 0"),
        (lambda: SPSA(D, c=0.0), r"estimator\.c: expected a number > 0, got 0"),
        (lambda: SPSA(D, alpha=-0.4), r"estimator\.alpha: expected a number in \[0, inf\), got -0\.4"),
        (lambda: SPSA(D, momentum=1.0), r"estimator\.momentum: expected a number in \[0, 1\), got 1"),
        (lambda: Coordinate(D, 7), r"estimator\.num_coordinates: expected at most 6, .* got 7"),
        (lambda: OneSided(10**23), r"estimator\.num_directions: expected a whole number <= 1,000,000, got 10{23}"),
        (lambda: Coordinate(D, 0), r"estimator\.num_coordinates: expected a whole number >= 1, got 0"),
        (lambda: Coordinate(D, 1, rule="sgd"), r"estimator\.rule: expected one of adam, newton, gradient, got 'sgd'"),
        (lambda: Coordinate(D, 1, lr=0.0), r"estimator\.lr: .* got 0"),
        (lambda: CMAES(D, population=3), r"estimator\.population: expected a whole number >= 4, got 3"),
        (lambda: CMAES(D, sigma=0.0), r"estimator\.sigma: .* got 0"),
        (lambda: CMAES(D, covariance="low"), r"estimator\.covariance: expected diagonal or full, got 'low'"),
        (lambda: CMAES(5000, covariance="full"), r"2 to 1000 parameters, got 5000; .* estimator\.covariance=diagonal"),
        (lambda: CMAES(1), r"2 to 1000000 parameters, got 1"),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], GradientEstimator], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
