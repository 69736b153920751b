"""FLM and ILM: counting, greedy and optimal assignments, and refits."""

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings.frequency import FrequencyMapping, greedy_assignment, optimal_assignment


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


def as_published(log_probs: Tensor, targets: Tensor, num_targets: int) -> list[int]:
    """FLM in plain Python: take the most frequent pair, strike out its row and column, until each class has one."""
    num_sources = log_probs.shape[1]
    counts = [[0] * num_targets for _ in range(num_sources)]
    for row, target in zip(log_probs.tolist(), targets.tolist(), strict=True):
        counts[row.index(max(row))][target] += 1
    chosen = [-1] * num_targets
    for _ in range(num_targets):
        best = max(max(row) for row in counts)
        pairs = [(s, t) for s in range(num_sources) for t in range(num_targets) if counts[s][t] == best]
        if len(pairs) > 1:  # the paper does not say which of equals; such data would compare nothing
            raise AssertionError(f"a tie between {pairs}")
        source, target = pairs[0]
        chosen[target] = source
        counts[source] = [-1] * num_targets
        for row in counts:
            row[target] = -1
    return chosen


@pytest.mark.parametrize(("num_sources", "num_targets"), [(2, 2), (9, 2), (7, 7), (40, 7)])
def test_flm_and_ilm_are_those_of_the_paper(num_sources: int, num_targets: int) -> None:
    generator = torch.Generator().manual_seed(num_sources + num_targets)
    mapping, epochs = FrequencyMapping(num_sources, num_targets), []
    for _ in range(2):  # one epoch is FLM; each later refit is ILM
        # class t is taken for its favourite 50 + 31 t times, and for others at times
        favourites = torch.randperm(num_sources, generator=generator)[:num_targets]
        targets = torch.cat([torch.full((60 + 31 * label,), label) for label in range(num_targets)])
        logits = torch.randn(len(targets), num_sources, generator=generator)
        strength = torch.cat([torch.arange(60 + 31 * label) < 50 + 31 * label for label in range(num_targets)]) * 9.0
        logits[torch.arange(len(targets)), favourites[targets]] += strength
        log_probs = logits.log_softmax(1)
        for rows in torch.randperm(len(targets), generator=generator).split(64):
            mapping.observe(log_probs[rows], targets[rows])
        mapping.refit()
        epochs.append(mapping.assignment.flatten().tolist())
        assert epochs[-1] == as_published(log_probs, targets, num_targets)
    assert epochs[0] != epochs[1]


def test_greedy_assignment_by_hand() -> None:
    # source 0 is the favourite of both classes: class 1 has more of it, so class 0 takes its second choice
    counts = torch.tensor([[5, 9], [4, 0], [0, 3]])
    assert greedy_assignment(counts, torch.zeros(3, 2), 1).tolist() == [[1], [0]]


def test_ties_between_counts_go_by_probability_mass() -> None:
    counts = torch.tensor([[2, 2], [2, 2], [0, 0]])
    mass = torch.tensor([[1.0, 1.4], [1.3, 1.2], [0.0, 0.0]])
    assert greedy_assignment(counts, mass, 1).tolist() == [[1], [0]]


def sums(table: Tensor, assignment: Tensor) -> float:
    return float(sum(table[s, t] for t, row in enumerate(assignment.tolist()) for s in row))


@pytest.mark.parametrize(("num_sources", "num_targets", "per_class"), [(2, 2, 1), (6, 3, 1), (5, 2, 2), (6, 2, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_the_optimal_assignment_is_the_best_of_all(
    seed: int, num_sources: int, num_targets: int, per_class: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(
        0, 4, (num_sources, num_targets), generator=generator
    )  # few values: mass decides between many
    most = counts.sum() / (num_targets * per_class)  # no assignment has more mass than there are examples
    mass = most * torch.rand(num_sources, num_targets, generator=generator, dtype=torch.float64)
    every = (
        torch.tensor(order).view(num_targets, per_class)
        for order in permutations(range(num_sources), num_targets * per_class)
    )
    best = max((sums(counts, chosen), round(sums(mass, chosen), 9)) for chosen in every)
    found = optimal_assignment(counts, mass, per_class)
    assert (sums(counts, found), round(sums(mass, found), 9)) == best
    assert found.shape == (num_targets, per_class)
    assert found.flatten().unique().numel() == found.numel()
    for target, row in enumerate(found.tolist()):  # the most frequent first
        ranked = [(int(counts[s, target]), float(mass[s, target])) for s in row]
        assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("seed", range(10))
def test_the_optimal_assignment_never_has_less_than_the_greedy_one(seed: int) -> None:
    counts = torch.randint(0, 9, (30, 10), generator=torch.Generator().manual_seed(seed))
    mass = torch.rand(30, 10, dtype=torch.float64)
    greedy, optimal = (sums(counts, assign(counts, mass, 2)) for assign in (greedy_assignment, optimal_assignment))
    assert optimal >= greedy


def test_greedy_and_optimal_by_hand() -> None:
    # both classes like source 0 best; class 1 has it once more, but class 0 has nothing else
    log_probs, targets = log_probs_for([0] * 5 + [0] * 6 + [1] * 5, 3), torch.tensor([0] * 5 + [1] * 11)
    found = {}
    for assign in ("greedy", "optimal"):
        mapping = FrequencyMapping(3, 2, assign=assign)
        mapping.observe(log_probs, targets)
        mapping.refit()
        found[assign] = mapping.assignment.flatten().tolist()
    assert found["optimal"] == [0, 1]  # 5 + 5
    assert found["greedy"][1] == 0  # 6 + 0


@pytest.mark.parametrize("assign", [greedy_assignment, optimal_assignment], ids=["greedy", "optimal"])
def test_a_thousand_classes_of_a_thousand(assign: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    counts = torch.randint(0, 3, (1000, 1000), generator=torch.Generator().manual_seed(0))
    found = assign(counts, torch.zeros(1000, 1000, dtype=torch.float64), 1)
    assert sorted(found.flatten().tolist()) == list(range(1000))


@pytest.mark.parametrize("assign", ["greedy", "optimal"])
def test_one_image_per_class_is_enough(assign: str) -> None:
    mapping = FrequencyMapping(12, 2, per_class=3, assign=assign)
    mapping.observe(log_probs_for([7, 4], 12), torch.tensor([0, 1]))
    mapping.refit()
    assert mapping.assignment[:, 0].tolist() == [7, 4]
    assert mapping.assignment.flatten().unique().numel() == 6
    assert torch.isfinite(mapping(log_probs_for([0, 7], 12))).all()


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


def test_decay_remembers_what_earlier_refits_saw() -> None:
    mapping, forgetful = FrequencyMapping(4, 2, decay=0.5), FrequencyMapping(4, 2)
    for made in (mapping, forgetful):
        made.observe(log_probs_for([3] * 8 + [2] * 4, 4), torch.tensor([0] * 8 + [1] * 4))
        made.refit()
        made.observe(log_probs_for([0, 0, 0, 1, 1, 1], 4), torch.tensor([0, 0, 0, 1, 1, 1]))
        made.refit()
    assert forgetful.assignment.tolist() == [[0], [1]]
    assert mapping.assignment.tolist() == [[3], [1]]  # 4 of 8 against 3; 2 of 4 against 3
    mapping.refit()
    assert mapping.assignment.tolist() == [[3], [1]]
    mapping.observe(log_probs_for([0, 1], 4), torch.tensor([0, 1]))
    mapping.refit()
    assert mapping.assignment.tolist() == [[0], [1]]  # 2 of 8 against 1.5 + 1


def test_learned_weights_stay_with_the_rank_when_the_source_classes_change() -> None:
    mapping = FrequencyMapping(6, 2, per_class=2, learn=True)
    logits = mapping.get_parameter("weighting.logits")
    with torch.no_grad():
        logits[:, 0] = math.log(3.0)  # three quarters for the most frequent
    for first, second in ((3, 0), (1, 5)):
        mapping.observe(log_probs_for([first, first, second, 2, 2, 4], 6), torch.tensor([0, 0, 0, 1, 1, 1]))
        mapping.refit()
        log_probs = torch.randn(3, 6).log_softmax(1)
        expected = (0.75 * log_probs[:, first].exp() + 0.25 * log_probs[:, second].exp()).log()
        torch.testing.assert_close(mapping(log_probs)[:, 0], expected)


def test_an_older_checkpoint_loads() -> None:
    mapping = FrequencyMapping(4, 2)
    counts, mass = torch.tensor([[0, 0], [0, 0], [0, 2], [3, 0]]), torch.zeros(4, 2, dtype=torch.float64)
    mapping.load_state_dict({"assignment": torch.tensor([[1], [0]]), "counts": counts, "mass": mass})
    assert mapping.assignment.tolist() == [[1], [0]]
    mapping.refit()
    assert mapping.assignment.tolist() == [[3], [2]]


def test_an_assignment_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mapping\.assign: expected greedy or optimal, got 'best'"):
        FrequencyMapping(6, 2, assign="best")


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
