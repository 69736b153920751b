"""What is kept of an answer, and what it says about all classes."""

import pytest
import torch

from reprogram.errors import SourceError
from reprogram.sources.http.adapter import Answer, UnusableReply
from reprogram.sources.http.answers import Reader, pack

LABELS = Reader("toy", ("a", "b", "c", "d", "other"), "probabilities")


def probabilities(reader: Reader, *answers: Answer) -> torch.Tensor:
    return reader.log_probs([pack(answer) for answer in answers]).double().exp()


@pytest.mark.parametrize("answer", [{"a": 0.25, "überraschung": 0.5}, {"\0": 1.0}])
def test_labels_survive_being_kept(answer: dict[str, float]) -> None:
    reader = Reader("toy", (*answer, "other"), "probabilities")
    found = reader.log_probs([pack(answer)]).exp()[0]
    assert reader.labels == set(answer)
    assert found.sum() == pytest.approx(1)
    for place, score in enumerate(answer.values()):
        assert found[place] == pytest.approx(score, abs=1e-5)


def test_vectors_survive_being_kept_and_are_read_alike_one_by_one() -> None:
    vectors = torch.randn(9, 7)
    reader = Reader("toy", "abcdefg", "logits")
    kept = [pack(vector) for vector in vectors]
    found = reader.log_probs(kept)
    assert torch.equal(found, vectors.log_softmax(1))
    assert torch.equal(found, torch.cat([reader.log_probs([one]) for one in kept]))


def test_log_probabilities_stay_as_they_are_if_they_sum_to_one() -> None:
    exact, off = torch.randn(5, 7).log_softmax(1), torch.randn(5, 7).log_softmax(1) + 0.005
    found = Reader("toy", "abcdefg", "log_probabilities").log_probs([pack(one) for one in (*exact, *off)])
    assert torch.equal(found[:5], exact)
    torch.testing.assert_close(found[5:], off - 0.005)
    assert (found[5:] != off).all()


def test_stored_answers_of_another_model_are_told() -> None:
    with pytest.raises(SourceError, match=r"toy: expected stored answers of 3 scores.*access\.ledger"):
        Reader("toy", "abc", "logits").log_probs([pack(torch.zeros(4))])


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "log_probabilities"])
def test_vectors_are_what_the_adapter_says(outputs: str) -> None:
    expected = torch.tensor([0.2, 0.5, 0.3])
    vector = {"logits": expected.log() + 4, "probabilities": expected, "log_probabilities": expected.log()}[outputs]
    torch.testing.assert_close(probabilities(Reader("toy", "abc", outputs), vector)[0], expected.double())


def test_what_is_left_is_spread_but_nobody_passes_the_smallest_reported() -> None:
    found = probabilities(LABELS, {"a": 0.7, "b": 0.15}, {"a": 0.4, "b": 0.1}, {"a": 1.0})
    torch.testing.assert_close(found[0], torch.tensor([0.7, 0.15, 0.05, 0.05, 0.05]).double())
    torch.testing.assert_close(found[1], torch.tensor([4, 1, 1, 1, 1]).double() / 8)
    torch.testing.assert_close(found[2, 1:], torch.full((4,), 0.25e-6).double(), rtol=1e-4, atol=0)


def test_a_reported_zero_is_no_impossible_class() -> None:
    found = probabilities(LABELS, {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0, "other": 0.0})
    assert found[0, 1:].min() > 1e-8


def test_scores_of_several_labels_need_not_sum_to_one() -> None:
    found = probabilities(LABELS, {"a": 0.9, "b": 0.8, "c": 0.3})
    torch.testing.assert_close(found[0, :3], torch.tensor([0.45, 0.4, 0.15]).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.tensor([1.0, 2.0]), "expected 3 scores of an image, got 2"),
        (torch.tensor([0.5, float("nan"), 0.5]), "expected finite scores, got NaN"),
        (torch.tensor([0.5, float("inf"), 0.5]), "expected finite scores"),
        (torch.tensor([0.5, 0.9, 0.5]), "of sum one"),
        (torch.tensor([1e39, 0.0, 0.0], dtype=torch.float64), "expected finite scores"),  # float32 is what is kept
        ({"a": float("nan")}, "expected finite scores"),
    ],
)
def test_what_cannot_be_used_is_not_kept(answer: Answer, message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        Reader("toy", "abc", "probabilities").check([answer])
