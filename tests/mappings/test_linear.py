"""The linear mapping: learned, fitted, or both."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reprogram.mappings.linear import LinearMapping
from reprogram.mappings.logistic import fit_logistic


def separable(num_targets: int, count: int = 120, num_sources: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(count) % num_targets
    logits = torch.randn(count, num_sources, generator=generator)
    logits[torch.arange(count), targets + 2] += 4
    return logits.log_softmax(1), targets


def test_scores_are_a_matrix_product_with_a_bias() -> None:
    mapping, log_probs = LinearMapping(5, 3), torch.randn(4, 5).log_softmax(1)
    with torch.no_grad():
        mapping.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(mapping(log_probs), log_probs @ mapping.weight.T + torch.tensor([1.0, 2.0, 3.0]))


def test_the_start_is_small_and_the_seed_decides_it() -> None:
    one, same, other = LinearMapping(100, 3, seed=0), LinearMapping(100, 3, seed=0), LinearMapping(100, 3, seed=1)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert 0 < one.weight.std() < 0.002
    assert not one.bias.any()


@pytest.mark.parametrize("learn", [True, False])
def test_only_a_mapping_that_learns_has_a_gradient(learn: bool) -> None:
    mapping = LinearMapping(5, 3, learn=learn)
    assert [parameter.requires_grad for parameter in mapping.parameters()] == [learn, learn]


@pytest.mark.parametrize("num_targets", [2, 3])
def test_a_fit_solves_a_separable_task_from_batches_of_responses(num_targets: int) -> None:
    log_probs, targets = separable(num_targets)
    mapping = LinearMapping(8, num_targets)
    for rows in torch.arange(len(targets)).split(50):
        mapping.observe(log_probs[rows], targets[rows])
    mapping.refit()
    assert (mapping(log_probs).argmax(1) == targets).float().mean() > 0.95
    assert len(mapping.get_extra_state()["targets"]) == 0
    assert mapping.weight.requires_grad


def test_a_refit_without_responses_changes_nothing() -> None:
    log_probs, targets = separable(2)
    mapping = LinearMapping(8, 2)
    mapping.observe(log_probs, targets)
    mapping.refit()
    weight = mapping.weight.clone()
    mapping.refit()
    assert torch.equal(mapping.weight, weight)
    mapping.observe(log_probs[:10], targets[:10])
    mapping.reset()
    mapping.refit()
    assert torch.equal(mapping.weight, weight)


def test_two_fits_to_the_same_responses_are_equal() -> None:
    log_probs, targets = separable(3)
    fitted = []
    for _ in range(2):
        mapping = LinearMapping(8, 3, seed=5)
        mapping.observe(log_probs, targets)
        mapping.refit()
        fitted.append(mapping.weight.detach())
    assert torch.equal(*fitted)


def test_the_order_of_the_responses_does_not_matter() -> None:
    log_probs, targets = separable(3)
    one, other = LinearMapping(8, 3), LinearMapping(8, 3)
    one.observe(log_probs, targets)
    order = torch.randperm(len(targets))
    for rows in order.split(17):
        other.observe(log_probs[rows], targets[rows])
    one.refit()
    other.refit()
    assert torch.equal(one.weight, other.weight)


def test_a_class_missing_from_the_responses_is_never_predicted() -> None:
    log_probs, targets = separable(2)
    mapping = LinearMapping(8, 3)
    mapping.observe(log_probs, 2 * targets)  # classes 0 and 2
    mapping.refit()
    assert torch.isfinite(mapping.weight).all()
    assert set(mapping(log_probs).argmax(1).tolist()) == {0, 2}


def test_responses_survive_a_round_trip_through_the_state() -> None:
    log_probs, targets = separable(2)
    mapping, copy = LinearMapping(8, 2), LinearMapping(8, 2, seed=9)
    mapping.observe(log_probs[:70], targets[:70])
    mapping.observe(log_probs[70:], targets[70:])
    copy.load_state_dict(mapping.state_dict())
    assert torch.equal(copy.weight, mapping.weight)
    assert torch.equal(copy.get_extra_state()["targets"], targets)
    assert torch.equal(copy.get_extra_state()["log_probs"], log_probs)
    copy.seed = mapping.seed
    mapping.refit()
    copy.refit()
    assert torch.equal(copy.weight, mapping.weight)


def test_an_empty_state_round_trips_and_more_can_be_observed_after_it() -> None:
    mapping, copy = LinearMapping(8, 2), LinearMapping(8, 2)
    copy.load_state_dict(mapping.state_dict())
    log_probs, targets = separable(2)
    copy.observe(log_probs, targets)
    assert len(copy.get_extra_state()["targets"]) == len(targets)
    copy.refit()
    assert (copy(log_probs).argmax(1) == targets).float().mean() > 0.95


def test_collecting_in_one_process_keeps_the_responses() -> None:
    log_probs, targets = separable(2)
    mapping = LinearMapping(8, 2)
    mapping.observe(log_probs, targets)
    mapping.collect()
    assert torch.equal(mapping.get_extra_state()["targets"], targets)


def test_trust_weighs_the_examples_of_the_fit_whatever_their_order() -> None:
    log_probs, targets = separable(3)
    trust = torch.where(torch.arange(120) % 4 == 0, 0.25, 1.0)
    wrong = torch.where(trust < 1, (targets + 1) % 3, targets)
    mapping, shuffled, full = LinearMapping(8, 3), LinearMapping(8, 3), LinearMapping(8, 3)
    mapping.observe(log_probs, wrong, trust)
    order = torch.randperm(120)
    for rows in order.split(17):
        shuffled.observe(log_probs[rows], wrong[rows], trust[rows])
    full.observe(log_probs, wrong)
    for one in (mapping, shuffled, full):
        one.refit()
    assert torch.equal(mapping.weight, shuffled.weight)
    rows = np.lexsort((log_probs[:, 0].numpy(), wrong.numpy()))
    features, weights = log_probs.double().numpy()[rows], trust.double().numpy()[rows]
    fit = fit_logistic(features, wrong.numpy()[rows], 3, weights=weights)
    torch.testing.assert_close(mapping.weight.detach(), torch.from_numpy(fit.weight).float())
    torch.testing.assert_close(mapping.bias.detach(), torch.from_numpy(fit.bias).float())
    losses = [cross_entropy(one(log_probs), targets).item() for one in (mapping, full)]
    assert losses[0] < losses[1]


def test_trust_survives_a_round_trip_and_a_state_without_it_trusts_fully() -> None:
    log_probs, targets = separable(2)
    mapping, copy, older = LinearMapping(8, 2), LinearMapping(8, 2), LinearMapping(8, 2)
    mapping.observe(log_probs, targets, torch.linspace(0.1, 1, 120))
    copy.load_state_dict(mapping.state_dict())
    assert torch.equal(copy.get_extra_state()["trust"], torch.linspace(0.1, 1, 120))
    state = mapping.get_extra_state()
    del state["trust"]
    older.set_extra_state(state)
    assert older.get_extra_state()["trust"].tolist() == [1.0] * 120


def test_float64_stays_float64() -> None:
    mapping = LinearMapping(5, 2).double()
    assert mapping(torch.randn(3, 5, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("schedule", [("never", False), ("once", True), (2, False)])
def test_the_schedule_is_as_asked(schedule: tuple[str | int, bool]) -> None:
    mapping = LinearMapping(5, 2, True, *schedule)
    assert (mapping.schedule.refresh, mapping.schedule.at_end) == schedule
