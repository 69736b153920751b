"""FLM and ILM: counting, the greedy assignment, and refits."""

import math

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings.frequency import FrequencyMapping, greedy_assignment


def by_brute_force(counts: list[list[int]], mass: list[list[float]], per_class: int) -> list[list[int]]:
    """The definition, written independently: of all pairs still allowed, take the largest, until none is needed."""
    sources, targets = len(counts), len(counts[0])
    chosen: list[list[int]] = [[] for _ in range(targets)]
    while any(len(row) < per_class for row in chosen):
        free = [
            (counts[s][t], mass[s][t], s, t)
            for s in range(sources)
            for t in range(targets)
            if all(s not in row for row in chosen) and len(chosen[t]) < per_class
        ]
        _, _, s, t = max(free)
        chosen[t].append(s)
    return chosen


def log_probs_for(predicted: list[int], num_classes: int, confidence: float = 0.9) -> Tensor:
    rest = (1 - confidence) / (num_classes - 1)
    probabilities = torch.full((len(predicted), num_classes), rest)
    probabilities[torch.arange(len(predicted)), torch.tensor(predicted)] = confidence
    return probabilities.log()


@pytest.mark.parametrize("per_class", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_assignment_agrees_with_brute_force(seed: int, per_class: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (13, 4), generator=generator)  # few values: many ties, decided by the mass
    mass = torch.rand(13, 4, generator=generator, dtype=torch.float64)
    expected = by_brute_force(counts.tolist(), mass.tolist(), per_class)
    assert greedy_assignment(counts, mass, per_class).tolist() == expected


def test_greedy_assignment_by_hand() -> None:
    # source 0 is the favourite of both classes: class 1 has more of it, so class 0 takes its second choice
    counts = torch.tensor([[5, 9], [4, 0], [0, 3]])
    assert greedy_assignment(counts, torch.zeros(3, 2), 1).tolist() == [[1], [0]]


def test_ties_between_counts_go_by_probability_mass() -> None:
    counts = torch.tensor([[2, 2], [2, 2], [0, 0]])
    mass = torch.tensor([[1.0, 1.4], [1.3, 1.2], [0.0, 0.0]])
    assert greedy_assignment(counts, mass, 1).tolist() == [[1], [0]]


def test_a_table_full_of_ties_still_gives_a_mapping_and_always_the_same() -> None:
    results = [greedy_assignment(torch.zeros(6, 3), torch.zeros(6, 3), 2).tolist() for _ in range(3)]
    assert results[0] == results[1] == results[2]
    assert sorted(index for row in results[0] for index in row) == list(range(6))


def test_a_refit_assigns_each_class_what_its_images_are_mistaken_for() -> None:
    mapping = FrequencyMapping(6, 2)
    mapping.observe(log_probs_for([4, 4, 1, 5, 5, 5], 6), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert mapping.assignment.tolist() == [[0], [1]]  # not before the refit
    mapping.refit()
    assert mapping.assignment.tolist() == [[4], [5]]
    assert not mapping.counts.any()
    assert not mapping.mass.any()


def test_counts_and_mass_add_up_over_batches() -> None:
    log_probs, targets = torch.randn(30, 5).log_softmax(1), torch.randint(0, 3, (30,))
    whole, parts = FrequencyMapping(5, 3), FrequencyMapping(5, 3)
    whole.observe(log_probs, targets)
    for rows in torch.arange(30).split(7):
        parts.observe(log_probs[rows], targets[rows])
    expected = torch.zeros(5, 3, dtype=torch.int64)
    for row, target in zip(log_probs, targets.tolist(), strict=True):
        expected[row.argmax(), target] += 1
    assert torch.equal(whole.counts, expected)
    assert torch.equal(parts.counts, expected)
    torch.testing.assert_close(parts.mass, whole.mass)
    torch.testing.assert_close(whole.mass.sum(0), torch.bincount(targets, minlength=3).double(), atol=1e-6, rtol=0)


def test_only_what_was_seen_since_the_last_refit_counts() -> None:
    mapping = FrequencyMapping(4, 2)
    mapping.observe(log_probs_for([0] * 50 + [1] * 50, 4), torch.tensor([0] * 50 + [1] * 50))
    mapping.refit()
    mapping.observe(log_probs_for([3, 2], 4), torch.tensor([0, 1]))
    mapping.refit()
    assert mapping.assignment.tolist() == [[3], [2]]


def test_a_refit_without_responses_keeps_the_assignment() -> None:
    mapping = FrequencyMapping(4, 2)
    mapping.observe(log_probs_for([3, 2], 4), torch.tensor([0, 1]))
    mapping.refit()
    mapping.refit()
    assert mapping.assignment.tolist() == [[3], [2]]
    mapping.observe(log_probs_for([0, 1], 4), torch.tensor([0, 1]))
    mapping.reset()
    mapping.refit()
    assert mapping.assignment.tolist() == [[3], [2]]


def test_a_missing_class_takes_what_the_others_leave() -> None:
    mapping = FrequencyMapping(5, 3, per_class=1)
    mapping.observe(log_probs_for([2, 2, 4], 5), torch.tensor([0, 0, 2]))
    mapping.refit()
    first, missing, last = mapping.assignment.flatten().tolist()
    assert (first, last) == (2, 4)
    assert missing in {0, 1, 3}


def test_several_source_classes_are_averaged_and_the_most_frequent_comes_first() -> None:
    mapping = FrequencyMapping(6, 2, per_class=2)
    mapping.observe(log_probs_for([3, 3, 0, 5, 1, 1, 1], 6), torch.tensor([0, 0, 0, 1, 1, 1, 1]))
    mapping.refit()
    assert mapping.assignment.tolist() == [[3, 0], [1, 5]]
    log_probs = torch.randn(4, 6).log_softmax(1)
    expected = torch.logaddexp(log_probs[:, 3], log_probs[:, 0]) - math.log(2)
    torch.testing.assert_close(mapping(log_probs)[:, 0], expected)


def test_the_statistics_are_part_of_the_state() -> None:
    mapping, copy = FrequencyMapping(6, 2), FrequencyMapping(6, 2)
    mapping.observe(log_probs_for([4, 5], 6), torch.tensor([0, 1]))
    copy.load_state_dict(mapping.state_dict())
    copy.refit()
    assert copy.assignment.tolist() == [[4], [5]]


def test_per_class_beyond_the_source_is_refused() -> None:
    FrequencyMapping(6, 2, per_class=3)
    with pytest.raises(ConfigError, match="2 target classes x 4 source classes each do not fit into 6"):
        FrequencyMapping(6, 2, per_class=4)
