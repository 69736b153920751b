"""Averages of a target class's source classes: by hand, learned, and at a temperature."""

import math
from collections.abc import Callable

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.mappings.base import LabelMapping
from reprogram.mappings.bayesian import BayesianMapping
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.mappings.weighting import Weighting, assigned_scores

ASSIGNMENT = torch.tensor([[0, 3], [2, 1]])


def test_scores_average_probabilities_by_hand() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.5, 0.0]])
    scores = assigned_scores(probabilities.log(), ASSIGNMENT)
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.25, 0.25], [0.125, 0.375]]))


def test_scores_are_logsumexp_minus_log_m_and_exact_for_tiny_probabilities() -> None:
    log_probs = torch.tensor([[-200.0, -201.0, -0.5, -300.0]])
    scores = assigned_scores(log_probs, torch.tensor([[0, 1], [2, 3]]))
    by_hand = [-200 + math.log1p(math.exp(-1)) - math.log(2), -0.5 - math.log(2)]
    torch.testing.assert_close(scores, torch.tensor([by_hand]))


def test_without_learning_there_is_no_state_and_no_other_rounding() -> None:
    weighting, log_probs = Weighting(2, 2), torch.randn(6, 4).log_softmax(1)
    assert not weighting.state_dict()
    assert torch.equal(weighting(log_probs, ASSIGNMENT), assigned_scores(log_probs, ASSIGNMENT))


def test_learning_starts_from_the_average_at_the_given_temperature() -> None:
    weighting, log_probs = Weighting(2, 2, learn=True, temperature=2.5), torch.randn(6, 4).log_softmax(1)
    torch.testing.assert_close(weighting(log_probs, ASSIGNMENT), assigned_scores(log_probs, ASSIGNMENT) / 2.5)
    assert {key: tuple(value.shape) for key, value in weighting.named_parameters()} == {
        "logits": (2, 2),
        "log_temperature": (),
    }


def test_learned_weights_by_hand() -> None:
    weighting = Weighting(2, 2, learn=True)
    assert weighting.logits is not None
    assert weighting.log_temperature is not None
    with torch.no_grad():
        weighting.logits.copy_(torch.tensor([[math.log(3), 0.0], [0.0, math.log(4)]]))  # weights 3/4, 1/4; 1/5, 4/5
        weighting.log_temperature.fill_(math.log(0.5))
    scores = weighting(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), ASSIGNMENT)
    expected = [2 * math.log(0.75 * 0.1 + 0.25 * 0.4), 2 * math.log(0.2 * 0.3 + 0.8 * 0.2)]
    torch.testing.assert_close(scores, torch.tensor([expected]))


def test_one_source_class_each_leaves_only_the_temperature_to_learn() -> None:
    assert list(Weighting(3, 1, learn=True).state_dict()) == ["log_temperature"]


def test_gradient_steps_find_the_source_class_that_tells() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(200) % 2
    logits = torch.randn(200, 4, generator=generator)
    logits[torch.arange(200), targets] += 3.0  # sources 0 and 1 tell; 2 and 3, just as likely, say nothing
    logits[:, 2:] += 1.5
    log_probs, assignment = logits.log_softmax(1), torch.tensor([[0, 2], [1, 3]])
    weighting = Weighting(2, 2, learn=True)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(weighting(log_probs, assignment), targets)
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, slope in zip(
                weighting.parameters(), torch.autograd.grad(loss, list(weighting.parameters())), strict=True
            ):
                parameter -= 2.0 * slope
    assert weighting.logits is not None
    assert (weighting.logits.softmax(1)[:, 0] > 0.8).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: AssignmentMapping(6, 2, per_class=3, **options),
        lambda **options: FrequencyMapping(6, 2, per_class=3, **options),
    ],
    ids=["assignment", "frequency"],
)
def test_mappings_with_an_assignment_learn_and_divide(make: Callable[..., LabelMapping], learn: bool) -> None:
    log_probs = torch.randn(5, 6).log_softmax(1)
    made = make(learn=learn, temperature=4.0)
    torch.testing.assert_close(4 * made(log_probs), make()(log_probs))
    names = [name for name, _ in made.named_parameters()]
    assert names == (["weighting.logits", "weighting.log_temperature"] if learn else [])
    if learn:
        made(log_probs)[:, 0].sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "make",
    [
        lambda temperature: AssignmentMapping(6, 2, temperature=temperature),
        lambda temperature: FrequencyMapping(6, 2, temperature=temperature),
        lambda temperature: BayesianMapping(6, 2, None, temperature=temperature),
    ],
    ids=["assignment", "frequency", "bayesian"],
)
def test_a_temperature_that_is_none_is_refused(make: Callable[[float], LabelMapping], temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"mapping\.temperature: expected a number > 0 \(1e-6 to 1e6\), got"):
        make(temperature)
