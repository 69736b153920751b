import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from reprogram.errors import ConfigError
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.threshold import decide, operating_threshold


def binary(targets, positive) -> Predictions:
    positive = np.array(positive, dtype=np.float64)
    ids = tuple(map(str, range(len(positive))))
    return Predictions("val", ids, np.array(targets), np.stack([1 - positive, positive], axis=1))


def test_lies_between_the_scores_it_separates():
    validation = binary([0, 0, 0, 1, 1], [0.02, 0.05, 0.10, 0.20, 0.90])
    threshold = operating_threshold(validation)
    assert threshold == pytest.approx(0.15)
    np.testing.assert_array_equal(decide(validation.scores, threshold), validation.targets)
    np.testing.assert_array_equal(decide(validation.scores, None), [0, 0, 0, 0, 1])


def test_no_other_threshold_is_better():
    generator = np.random.default_rng(3)
    targets = (generator.random(300) < 0.1).astype(np.int64)
    validation = binary(targets, np.round(generator.beta(1 + targets, 6), 2))
    threshold = operating_threshold(validation)
    reached = balanced_accuracy_score(targets, decide(validation.scores, threshold))
    others = [balanced_accuracy_score(targets, decide(validation.scores, t)) for t in np.arange(-0.005, 1.01, 0.01)]
    assert reached == pytest.approx(max(others), abs=1e-12)
    assert reached > balanced_accuracy_score(targets, decide(validation.scores, None)) + 0.05


def test_of_equally_good_ones_the_nearest_to_one_half():
    # Below the lone positive at .3 and below the two at .8 and .9: J = 1 - 1/3 in both cases.
    assert operating_threshold(binary([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.8, 0.9])) == pytest.approx(0.6)


def test_a_score_on_the_threshold_is_positive_and_neighbouring_floats_separate():
    low, high = 0.5, np.nextafter(0.5, 1)
    validation = binary([0, 1], [low, high])
    np.testing.assert_array_equal(decide(validation.scores, operating_threshold(validation)), [0, 1])


def test_none_where_it_cannot_tell():
    assert operating_threshold(binary([1, 1], [0.2, 0.7])) is None
    assert operating_threshold(binary([0, 1], [0.4, 0.4])) is None
    assert operating_threshold(Predictions("val", ("a", "b"), np.array([0, 1]), np.eye(3)[:2])) is None


def test_a_threshold_for_three_classes_is_refused():
    with pytest.raises(ConfigError, match="two classes, got 3"):
        decide(np.eye(3), 0.5)
