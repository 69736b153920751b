"""Labels and scores: in order, as many as asked for, as probabilities."""

import numpy as np
import pytest

from reprogram.errors import DataError
from reprogram.serving.label_scores import labels, number_of_labels
from reprogram.serving.model import Answer, Facts

SOURCE = Facts("toy", ("cat", "dog", "cow"), (2, 4), "log_probabilities", "abc")
RUN = Facts("toy", ("no", "yes"), (2, 4), "probabilities", "abc", resizes=True, threshold=0.25)


def test_log_probabilities_become_probabilities_the_likeliest_first() -> None:
    answer = Answer(np.log(np.array([[0.25, 0.125, 0.625]], dtype=np.float32)), None)
    found = labels(answer, SOURCE, None)
    assert [entry["label"] for entry in found] == ["cow", "cat", "dog"]
    assert [entry["score"] for entry in found] == pytest.approx([0.625, 0.25, 0.125], abs=1e-7)
    assert all(set(entry) == {"label", "score"} for entry in found)
    assert labels(answer, SOURCE, 2) == found[:2]
    assert labels(answer, SOURCE, 5) == found


def test_what_is_not_a_number_is_not_hidden_behind_the_others() -> None:
    found = labels(Answer(np.array([[-1.0, np.nan, -2.0]], dtype=np.float32), None), SOURCE, 1)
    assert found[0]["label"] == "dog"
    assert np.isnan(found[0]["score"])


def test_equal_scores_keep_the_order_of_the_classes() -> None:
    assert [entry["label"] for entry in labels(Answer(np.zeros((1, 3), np.float32), None), SOURCE, None)] == [
        "cat",
        "dog",
        "cow",
    ]


def test_a_classifier_says_which_class_it_decides_for() -> None:
    answer = Answer(np.array([[0.75, 0.25]], dtype=np.float32), np.array([1]))
    assert labels(answer, RUN, None) == [
        {"label": "no", "score": 0.75, "decided": False},
        {"label": "yes", "score": 0.25, "decided": True},
    ]


@pytest.mark.parametrize(("text", "expected"), [(None, None), ("1", 1), ("0005", 5), ("999", 999)])
def test_the_number_of_labels_is_read(text: str | None, expected: int | None) -> None:
    assert number_of_labels(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "five", "٣", "1" * 5000])
def test_another_number_of_labels_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="top_k: expected a whole number >= 1"):
        number_of_labels(text)
