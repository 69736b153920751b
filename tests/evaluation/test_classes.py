import numpy as np
import pytest
from sklearn import metrics as reference

from reprogram.errors import ShapeError
from reprogram.evaluation.classes import confusion, per_class
from reprogram.evaluation.intervals import with_intervals
from reprogram.evaluation.metrics import decision_metrics, ranking_metrics
from reprogram.evaluation.predictions import Predictions

NUM_ROWS = 150


def case(num_classes: int) -> Predictions:
    generator = np.random.default_rng(num_classes)
    targets = generator.integers(num_classes, size=NUM_ROWS)
    scores = np.round(generator.gamma(1.0, size=(NUM_ROWS, num_classes)) + np.eye(num_classes)[targets], 1) + 0.1
    scores /= scores.sum(axis=1, keepdims=True)
    groups = tuple(f"patient{row // 2}" for row in range(NUM_ROWS))
    return Predictions("test", tuple(map(str, range(NUM_ROWS))), targets, scores, groups)


def by_scikit_learn(targets, scores, decided, label) -> dict[str, float]:
    truth, claim = targets == label, decided == label
    return {
        "precision": reference.precision_score(truth, claim),
        "recall": reference.recall_score(truth, claim),
        "specificity": reference.recall_score(~truth, ~claim),
        "f1": reference.f1_score(truth, claim),
        "auroc": reference.roc_auc_score(truth, scores[:, label]),
        "auprc": reference.average_precision_score(truth, scores[:, label]),
    }


@pytest.mark.parametrize(("num_classes", "threshold"), [(2, None), (2, 0.35), (4, None)])
def test_each_class_against_the_rest_agrees_with_scikit_learn(num_classes, threshold):
    some = case(num_classes)
    decided = some.scores.argmax(1) if threshold is None else (some.scores[:, 1] >= threshold).astype(int)
    names = ["$x", "b", "c, d", "support"][:num_classes]
    ours = per_class(some, 10, 0, threshold, names)
    assert list(ours) == names
    for label, name in enumerate(names):
        assert ours[name].pop("support") == (some.targets == label).sum()
        expected = by_scikit_learn(some.targets, some.scores, decided, label)
        assert list(ours[name]) == list(expected)
        for metric, value in expected.items():
            assert ours[name][metric]["value"] == pytest.approx(value, abs=1e-9), (name, metric)


def test_a_whole_number_weight_is_a_repeated_row():
    some = case(3)
    weights = np.random.default_rng(1).poisson(1.0, size=NUM_ROWS)
    rows, decided = np.repeat(np.arange(NUM_ROWS), weights), some.scores.argmax(axis=1)
    ours = decision_metrics(some.targets, decided, weights[None].astype(float), 3)
    ours |= ranking_metrics(some.targets, some.scores, weights[None].astype(float), range(3))
    for label in range(3):
        for metric, value in by_scikit_learn(some.targets[rows], some.scores[rows], decided[rows], label).items():
            assert ours[metric][0, label] == pytest.approx(value, abs=1e-9), (label, metric)


def test_intervals_are_those_of_the_same_resamples():
    some = case(2)
    whole = with_intervals(some, False, 130, seed=5, threshold=0.4)
    ours = per_class(some, 130, 5, 0.4, ["well", "ill"])
    assert ours["ill"]["recall"] == ours["well"]["specificity"] == whole["sensitivity"]
    assert ours["well"]["recall"] == ours["ill"]["specificity"] == whole["specificity"]
    assert ours["ill"]["auprc"] == whole["auprc"]
    assert ours["ill"]["auroc"] == whole["auroc"]
    assert ours["ill"]["auroc"]["low"] < ours["ill"]["auroc"]["value"] < ours["ill"]["auroc"]["high"]


def test_undefined_is_none():
    scores = np.array([[0.6, 0.4, 0.0], [0.7, 0.2, 0.1], [0.8, 0.1, 0.1]])  # b is never decided, c has no example
    ours = per_class(Predictions("test", ("1", "2", "3"), np.array([0, 0, 1]), scores), 20, 0, None, ["a", "b", "c"])
    assert (ours["b"]["precision"]["value"], ours["b"]["recall"]["value"], ours["b"]["f1"]["value"]) == (None, 0, 0)
    assert ours["c"]["support"] == 0
    assert {name for name, found in ours["c"].items() if name != "support" and found["value"] is not None} == {
        "specificity"
    }


def test_names_must_be_as_many_as_classes():
    with pytest.raises(ShapeError, match="expected 2 class names"):
        per_class(case(2), 10, 0, None, ["a", "b", "c"])


@pytest.mark.parametrize(("num_classes", "threshold"), [(2, None), (2, 0.35), (5, None)])
def test_confusion_agrees_with_scikit_learn(num_classes, threshold):
    some = case(num_classes)
    decided = some.scores.argmax(1) if threshold is None else (some.scores[:, 1] >= threshold).astype(int)
    ours = confusion(some, threshold)
    assert ours == reference.confusion_matrix(some.targets, decided, labels=range(num_classes)).tolist()
    assert all(type(count) is int for row in ours for count in row)
