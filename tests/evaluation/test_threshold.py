import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from reprogram.errors import ConfigError
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.threshold import POINTS, decide, operating_points, operating_threshold


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


def test_it_lies_among_the_scores_even_where_they_say_nothing():
    assert operating_threshold(binary([0, 1, 0, 1], [0.1, 0.1, 0.2, 0.2])) == pytest.approx(0.15)


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


def reached(validation: Predictions, threshold: float) -> tuple[float, float]:
    metrics = point_metrics(validation, False, threshold)
    return metrics["specificity"], metrics["sensitivity"]


def test_operating_points_by_hand():
    #                     -    -    -    +    -    +    +    -    +    +
    targets = [0, 0, 0, 1, 0, 1, 1, 0, 1, 1]
    validation = binary(targets, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    points = operating_points(validation, specificity=0.8, sensitivity=0.8)
    assert list(points) == list(POINTS)
    assert points["youden"] == operating_threshold(validation) == pytest.approx(0.55)
    assert points["fixed_specificity"] == pytest.approx(0.55)  # 4 of 5 negatives are below
    assert points["fixed_sensitivity"] == pytest.approx(0.55)  # 4 of 5 positives are above
    assert operating_points(validation, 0.81, 0.81)["fixed_specificity"] == pytest.approx(0.85)
    assert operating_points(validation, 0.6, 0.6)["fixed_specificity"] == pytest.approx(0.35)  # not .45: less sensitive
    assert operating_points(validation, 0.81, 0.81)["fixed_sensitivity"] == pytest.approx(0.35)
    assert operating_points(validation, 0.6, 0.6)["fixed_sensitivity"] == pytest.approx(0.65)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.95, 1.0])
def test_operating_points_hold_and_no_other_threshold_gives_more(share):
    generator = np.random.default_rng(4)
    targets = (generator.random(200) < 0.3).astype(np.int64)
    validation = binary(targets, np.round(generator.beta(1 + 2 * targets, 3), 2).clip(0.01, 0.99))
    points = operating_points(validation, share, share)
    others = [reached(validation, threshold) for threshold in np.arange(0.005, 1, 0.01)]
    specificity, sensitivity = reached(validation, points["fixed_specificity"])
    assert specificity >= share
    assert sensitivity == max(other for enough, other in others if enough >= share)
    specificity, sensitivity = reached(validation, points["fixed_sensitivity"])
    assert sensitivity >= share
    assert specificity == max(enough for enough, other in others if other >= share)


def test_equal_scores_stay_together():
    points = operating_points(binary([0, 0, 1, 0, 1, 1], [0.2, 0.5, 0.5, 0.5, 0.5, 0.8]), 0.5, 0.5)
    assert points["fixed_specificity"] == pytest.approx(0.65)  # above the tie: all three negatives
    assert points["fixed_sensitivity"] == pytest.approx(0.35)  # below the tie: all three positives


def test_an_extreme_point_is_beyond_all_scores_and_within_zero_and_one():
    upside_down = binary([1, 0, 1, 0], [0.2, 0.4, 0.6, 0.8])
    points = operating_points(upside_down, 1, 1)
    assert points["fixed_specificity"] == pytest.approx(0.9)
    assert points["fixed_sensitivity"] == pytest.approx(0.1)
    assert reached(upside_down, points["fixed_specificity"]) == (1, 0)
    assert reached(upside_down, points["fixed_sensitivity"]) == (0, 1)


def test_what_no_threshold_reaches_is_missed_as_little_as_possible():
    certain = binary([1, 0, 1, 0], [0.0, 0.4, 0.6, 1.0])  # a positive at 0 and a negative at 1
    points = operating_points(certain, 0.9, 0.9)
    assert points["fixed_specificity"] == pytest.approx(0.8)
    assert points["fixed_sensitivity"] == pytest.approx(0.2)
    nearly = np.nextafter(1, 0)
    assert all(0 < point < 1 for point in operating_points(binary([1, 0, 1], [0, 5e-324, nearly]), 1, 1).values())


def test_no_operating_points_where_it_cannot_tell():
    assert operating_points(binary([1, 1], [0.2, 0.7]), 0.9, 0.9) == {}
    assert operating_points(binary([0, 1], [0.4, 0.4]), 0.9, 0.9) == {}
    assert operating_points(binary([0, 1], [np.nextafter(1, 0), 1.0]), 0.9, 0.9) == {}  # nothing between them but 1
    assert operating_points(Predictions("val", ("a", "b"), np.array([0, 1]), np.eye(3)[:2]), 0.9, 0.9) == {}


@pytest.mark.parametrize(("specificity", "sensitivity"), [(0, 0.9), (0.9, 1.1), (float("nan"), 0.9)])
def test_an_impossible_share_is_refused(specificity, sensitivity):
    with pytest.raises(ConfigError, match=r"in \(0, 1\], got"):
        operating_points(binary([0, 1], [0.2, 0.7]), specificity, sensitivity)
