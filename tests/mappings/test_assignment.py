"""Fixed label mappings."""

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.mappings.base import RefitSchedule


def test_one_to_one_just_picks() -> None:
    log_probs = torch.randn(3, 5).log_softmax(1)
    assert torch.equal(AssignmentMapping(5, 3)(log_probs), log_probs[:, :3])


def test_first_takes_the_classes_in_order() -> None:
    assert AssignmentMapping(10, 3, per_class=2).assignment.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_random_is_a_choice_of_distinct_classes_that_the_seed_decides() -> None:
    one, same, other = (AssignmentMapping(50, 4, "random", 5, seed=seed).assignment for seed in (3, 3, 4))
    assert len(set(one.flatten().tolist())) == 20
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    before = torch.get_rng_state()
    AssignmentMapping(50, 4, "random", 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_given_is_kept() -> None:
    mapping = AssignmentMapping(10, 2, "given", given=[[7, 1], [0, 9]])
    assert mapping.assignment.tolist() == [[7, 1], [0, 9]]


@pytest.mark.parametrize(
    "given",
    [[[1, 2]], [[1], [2, 3]], [[1, 2], [2, 3]], [[1], [10]], [[1], [-1]], [[], []], [[1], [2], [3]]],
    ids=["too-few", "ragged", "repeated", "too-large", "negative", "empty", "too-many"],
)
def test_a_given_list_that_is_no_mapping_is_refused(given: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match=r"mapping\.given: expected 2 lists of equal length.*0\.\.9"):
        AssignmentMapping(10, 2, "given", given=given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choice": "given"}, "together with"),
        ({"choice": "first", "given": [[1], [2]]}, "together with"),
        ({"choice": "best"}, "first, random or given, got 'best'"),
        ({"per_class": 6}, "2 target classes x 6 .* 10 source classes; expected 1 to 5"),
        ({"per_class": 0}, "mapping.per_class"),
    ],
)
def test_choices_that_cannot_work_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AssignmentMapping(10, 2, **arguments)


def test_more_target_than_source_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 target classes x 1 source classes each do not fit into 4"):
        AssignmentMapping(4, 10)


def test_an_older_checkpoint_loads_and_weights_come_only_with_learning() -> None:
    assert list(AssignmentMapping(6, 2, per_class=3).state_dict()) == ["assignment"]
    AssignmentMapping(6, 2, "random", 3).load_state_dict({"assignment": torch.arange(6).view(2, 3)})
    learned = AssignmentMapping(6, 2, "given", given=[[4, 5, 0], [1, 2, 3]], learn=True)
    assert learned.state_dict()["weighting.logits"].shape == (2, 3)


def test_observing_and_refitting_changes_nothing() -> None:
    mapping = AssignmentMapping(6, 3, "random", 2)
    before = mapping.assignment.clone()
    mapping.observe(torch.randn(8, 6).log_softmax(1), torch.arange(8) % 3)
    mapping.collect()
    mapping.refit()
    mapping.reset()
    assert torch.equal(mapping.assignment, before)
    assert mapping.schedule == RefitSchedule("never", at_end=False, fixed=True)
