import math

import numpy as np
import pytest
from sklearn import metrics as reference

from reprogram.errors import ConfigError
from reprogram.evaluation.metrics import evaluate, point_metrics
from reprogram.evaluation.predictions import Predictions

NUM_ROWS = 240


def case(num_classes: int, seed: int = 0, ties: bool = True):
    """Informative scores, rounded so that many are equal, and two weightings: real and whole numbers with zeros."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(num_classes, size=NUM_ROWS)
    scores = generator.gamma(1.0, size=(NUM_ROWS, num_classes)) + 0.8 * np.eye(num_classes)[targets]
    scores /= scores.sum(axis=1, keepdims=True)
    if ties:
        scores = np.round(scores, 1)
        scores[:, -1] = 0
        scores[:, -1] = 1 - scores.sum(axis=1)
        scores = np.maximum(np.round(scores, 1), 0)
        scores /= scores.sum(axis=1, keepdims=True)
    weights = np.stack([generator.random(NUM_ROWS) + 0.1, generator.poisson(1.0, size=NUM_ROWS).astype(float)])
    return targets, scores, weights


def by_scikit_learn(targets, scores, weight, threshold):
    num_classes = scores.shape[1]
    decided = scores.argmax(1) if threshold is None else (scores[:, 1] >= threshold).astype(int)
    one_hot = np.eye(num_classes)[targets]
    ranked = (one_hot[:, 1], scores[:, 1]) if num_classes == 2 else (one_hot, scores)
    expected = {
        "accuracy": reference.accuracy_score(targets, decided, sample_weight=weight),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, decided, sample_weight=weight),
        "auroc": reference.roc_auc_score(*ranked, average="macro", sample_weight=weight),
        "auprc": reference.average_precision_score(*ranked, average="macro", sample_weight=weight),
        "f1_macro": reference.f1_score(targets, decided, average="macro", sample_weight=weight),
        "quadratic_kappa": reference.cohen_kappa_score(targets, decided, weights="quadratic", sample_weight=weight),
        "nll": reference.log_loss(targets, scores, sample_weight=weight, labels=range(num_classes)),
    }
    if num_classes == 2:
        expected["sensitivity"] = reference.recall_score(targets, decided, pos_label=1, sample_weight=weight)
        expected["specificity"] = reference.recall_score(targets, decided, pos_label=0, sample_weight=weight)
    return expected


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(("num_classes", "threshold"), [(2, None), (2, 0.3), (3, None), (7, None)])
def test_agrees_with_scikit_learn_under_weights(num_classes, threshold, ties):
    targets, scores, weights = case(num_classes, ties=ties)
    assert len(np.unique(scores[:, 1])) < 60 if ties else len(np.unique(scores[:, 1])) == NUM_ROWS
    ours = evaluate(targets, scores, weights, ordinal=True, threshold=threshold)
    for resample, weight in enumerate(weights):
        expected = by_scikit_learn(targets, scores, weight, threshold)
        assert set(ours) == set(expected) | {"ece"}
        for name, value in expected.items():
            assert ours[name][resample] == pytest.approx(value, abs=1e-9), name


def test_a_whole_number_weight_is_a_repeated_row():
    targets, scores, weights = case(4)
    rows = np.repeat(np.arange(NUM_ROWS), weights[1].astype(int))
    weighted = evaluate(targets, scores, weights[1:], ordinal=True)
    repeated = evaluate(targets[rows], scores[rows], None, ordinal=True)
    for name, values in weighted.items():
        assert values == pytest.approx(repeated[name], abs=1e-12), name
    for name, value in by_scikit_learn(targets[rows], scores[rows], None, None).items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("names", [["auprc"], ["ece", "accuracy"], []])
def test_only_what_is_asked_for(names):
    every = evaluate(*case(3), ordinal=True)
    ours = evaluate(*case(3), ordinal=True, names=names)
    assert list(ours) == names
    for name in names:
        np.testing.assert_array_equal(ours[name], every[name])


@pytest.mark.parametrize("name", ["auc", "sensitivity"])
def test_a_metric_that_these_classes_lack_is_refused(name):
    with pytest.raises(ConfigError, match=f"'auroc'.*got .*'{name}'"):
        evaluate(*case(3), ordinal=True, names=["accuracy", name])


def test_ece_by_hand():
    # Bins of 1/15: .62 and .64 share (.6, .667]; .7 and .9 stand alone.
    confidence = np.array([0.62, 0.64, 0.7, 0.9])
    scores = np.stack([confidence, 1 - confidence], axis=1)
    targets = np.array([0, 1, 0, 0])
    expected = (abs(1 + 0 - 0.62 - 0.64) + abs(1 - 0.7) + abs(1 - 0.9)) / 4
    assert evaluate(targets, scores, None, ordinal=False)["ece"][0] == pytest.approx(expected, abs=1e-12)
    expected = (abs(3 * (1 - 0.62) + 0 - 0.64) + abs(1 - 0.9)) / 5
    weighted = evaluate(targets, scores, np.array([[3.0, 1, 0, 1]]), ordinal=False)
    assert weighted["ece"][0] == pytest.approx(expected, abs=1e-12)


def test_ece_puts_a_confidence_on_an_edge_into_the_lower_bin():
    # 1/3 = 5/15 closes bin 5 and so is apart from .36 in bin 6; together the two gaps would cancel in part.
    scores = np.array([[1 / 3, 1 / 3, 1 / 3], [0.36, 0.34, 0.30]])
    expected = ((1 - 1 / 3) + 0.36) / 2
    assert evaluate(np.array([0, 1]), scores, None, ordinal=False)["ece"][0] == pytest.approx(expected, abs=1e-12)


def test_quadratic_kappa_by_hand():
    # Grades 0, 1, 2 twice each; one 2 is called 0 and one 1 is called 2.
    targets, decided = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 2, 0])
    observed = (1 + 4) / 6
    expected = sum((t - d) ** 2 for t in targets for d in decided) / 36
    kappa = evaluate(targets, np.eye(3)[decided], None, ordinal=True)["quadratic_kappa"][0]
    assert kappa == pytest.approx(1 - observed / expected, abs=1e-12)


def test_kappa_only_where_distance_means_something():
    assert "quadratic_kappa" not in evaluate(*case(3), ordinal=False)
    assert "quadratic_kappa" in evaluate(*case(2), ordinal=False)
    assert "sensitivity" not in evaluate(*case(3), ordinal=True)


def test_a_class_absent_from_a_resample_is_left_out_of_the_macro_mean():
    targets, scores, _ = case(3)
    without = (targets != 2).astype(float)[None]
    ours = evaluate(targets, scores, without, ordinal=False)
    rows = targets != 2
    expected = [reference.roc_auc_score(targets[rows] == label, scores[rows, label]) for label in (0, 1)]
    assert ours["auroc"][0] == pytest.approx(np.mean(expected), abs=1e-9)
    expected = [reference.average_precision_score(targets[rows] == label, scores[rows, label]) for label in (0, 1)]
    assert ours["auprc"][0] == pytest.approx(np.mean(expected), abs=1e-9)
    recall = [(scores[rows].argmax(1) == label)[targets[rows] == label].mean() for label in (0, 1)]
    assert ours["balanced_accuracy"][0] == pytest.approx(np.mean(recall), abs=1e-9)


@pytest.mark.parametrize("weights", [[[0.7, 0.7, 0.1, 0]], [[1, 1, 1, 0]]])
def test_one_class_only_is_undefined_not_guessed(weights):
    targets, scores = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    ours = evaluate(targets, scores, np.array(weights), ordinal=False)
    for name in ("auroc", "auprc", "sensitivity"):
        assert math.isnan(ours[name][0]), name
    kept = np.array(weights)[0]
    assert ours["specificity"][0] == pytest.approx(1 - kept[2] / kept.sum())
    constant = evaluate(targets[:2], scores[:2], np.array(weights)[:, :2], ordinal=True)
    assert math.isnan(constant["quadratic_kappa"][0])
    assert constant["accuracy"][0] == 1


def test_certain_and_wrong_costs_a_finite_nll():
    values = evaluate(np.array([1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]), None, ordinal=False)
    assert values["nll"][0] == pytest.approx(-math.log(np.finfo(float).eps) / 2)


def test_point_metrics_are_the_unweighted_ones():
    targets, scores, _ = case(3)
    ids = tuple(map(str, range(NUM_ROWS)))
    ours = point_metrics(Predictions("val", ids, targets, scores), ordinal=True)
    for name, value in by_scikit_learn(targets, scores, None, None).items():
        assert type(ours[name]) is float
        assert ours[name] == pytest.approx(value, abs=1e-9), name
