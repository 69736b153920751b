"""Labels and scores from JSON: what is taken, and what is refused."""

from typing import Any

import pytest
import torch

from reprogram.sources.http.adapter import UnusableReply
from reprogram.sources.http.scores import labelled, labelled_objects, shown, vector


def test_scores_keep_their_labels_and_need_not_sum_to_one() -> None:
    assert labelled(["a", "b", 3], [0.9, 0.8, 0]) == {"a": 0.9, "b": 0.8, "3": 0.0}
    assert labelled(["a", "b"], [90, 12.5], certain=100.0) == {"a": 0.9, "b": 0.125}


def test_rounded_scores_are_clamped() -> None:
    assert labelled(["a", "b"], [1.0009, -0.0009]) == {"a": 1.0, "b": 0.0}
    assert labelled(["a", "b"], [100.09, -0.09], certain=100.0) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], r"expected at least one label, got none"),
        (["a"], [0.5, 0.5], r"expected one score for each label, got 1 labels and 2 scores"),
        (["a", "b", "a"], [0.5, 0.1, 0.4], r'expected every label once, got "a" twice'),
        (["3", 3], [0.5, 0.5], r"expected every label once, got 3 twice"),
        ([""], [0.5], r'expected a text as label, got ""'),
        ([None], [0.5], r"expected a text as label, got null"),
        ([True], [0.5], r"expected a text as label, got true"),
        (["\ud800"], [0.5], r"expected a text as label"),  # could not be stored
        (["a"], [1.002], r'expected a score in \[0, 1\] of "a", got 1.002'),
        (["a"], [-0.002], r"got -0.002"),
        (["a"], [float("nan")], r"got NaN"),
        (["a"], [None], r"got null"),
        (["a"], ["0.5"], r'got "0.5"'),
        (["a"], [True], r"got true"),
        (["a"], [10**400], r"got 1000"),
    ],
)
def test_what_is_no_answer_is_refused(labels: list[Any], scores: list[Any], message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        labelled(labels, scores)


def test_percentages_are_no_probabilities() -> None:
    with pytest.raises(UnusableReply, match=r'expected a score in \[0, 1\] of "a", got 90'):
        labelled(["a"], [90])
    with pytest.raises(UnusableReply, match=r'expected a score in \[0, 100\] of "a", got 101'):
        labelled(["a"], [101], certain=100.0)


@pytest.mark.parametrize("found", [None, {}, {"label": "a", "score": 1}, ["a"], [{"label": "a"}], [{"score": 1.0}]])
def test_objects_need_both_keys(found: Any) -> None:
    with pytest.raises(UnusableReply, match=r"expected a list of objects with label and score, got "):
        labelled_objects(found, "label", "score")


def test_objects_may_hold_more() -> None:
    assert labelled_objects([{"n": "a", "v": 0.5, "id": 7}], "n", "v") == {"a": 0.5}


def test_numbers_become_a_vector() -> None:
    assert torch.equal(vector([1, 2.5], "x"), torch.tensor([1, 2.5], dtype=torch.float64))
    assert vector([[1], [2]], "x").shape == (2, 1)


@pytest.mark.parametrize("found", [None, 1.0, "1", {}, [], [[]], [None], ["1"], [1, [2]], [[1, 2], [3]], [1 << 2000]])
def test_what_is_no_list_of_numbers_is_refused(found: Any) -> None:
    with pytest.raises(UnusableReply, match=r"expected a list of numbers at scores, got "):
        vector(found, "scores")


def test_messages_stay_short() -> None:
    assert shown({"a": "ä"}) == '{"a": "\\u00e4"}'
    assert len(shown("x" * 1000)) == 83
