import json

import numpy as np
import pytest

from reprogram.errors import ConfigError, DataError
from reprogram.evaluation.intervals import (
    bootstrap,
    paired_difference,
    paired_differences,
    resample_weights,
    with_intervals,
)
from reprogram.evaluation.predictions import Predictions


def predictions(correct: np.ndarray, groups: tuple[str, ...] | None = None, split: str = "test") -> Predictions:
    """Two classes in turn, decided rightly with confidence .8 where ``correct``."""
    targets = np.arange(len(correct)) % 2
    positive = np.where(targets == correct, 0.8, 0.2)
    ids = tuple(f"row{row}" for row in range(len(correct)))
    return Predictions(split, ids, targets, np.stack([1 - positive, positive], axis=1), groups)


def test_row_weights_are_counts_of_n_draws():
    weights = np.concatenate(list(resample_weights(predictions(np.ones(40)), 130, seed=1)))
    assert weights.shape == (130, 40)
    np.testing.assert_array_equal(weights.sum(axis=1), 40)
    assert weights.mean(axis=0) == pytest.approx(np.ones(40), abs=0.35)
    assert weights.var() == pytest.approx(39 / 40, abs=0.1)


def test_groups_are_drawn_whole():
    groups = tuple("aabcccccdd")
    weights = np.concatenate(list(resample_weights(predictions(np.ones(10), groups), 60, seed=1)))
    for rows in ([0, 1], [3, 4, 5, 6, 7], [8, 9]):
        assert (weights[:, rows] == weights[:, rows[:1]]).all()
    np.testing.assert_array_equal(weights[:, [0, 2, 3, 8]].sum(axis=1), 4)
    assert (weights[:, 0] != weights[:, 2]).any()


def test_the_interval_of_an_accuracy_is_the_binomial_one():
    correct = np.arange(400) % 10 < 8
    ours = with_intervals(predictions(correct), ordinal=False, num_resamples=2000)["accuracy"]
    assert ours["value"] == pytest.approx(0.8)
    half_width = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert ours["low"] == pytest.approx(0.8 - half_width, abs=0.006)
    assert ours["high"] == pytest.approx(0.8 + half_width, abs=0.006)
    narrower = with_intervals(predictions(correct), ordinal=False, num_resamples=2000, level=0.5)["accuracy"]
    assert narrower["high"] - narrower["low"] == pytest.approx(2 * 0.6745 * 0.02, abs=0.006)


def test_groups_widen_the_interval_as_they_must():
    # 40 groups of 10 rows that are right or wrong together are worth 40 rows.
    correct = np.repeat(np.arange(40) % 10 < 8, 10)
    groups = tuple(np.repeat(np.arange(40), 10).astype(str))
    ours = with_intervals(predictions(correct, groups), ordinal=False, num_resamples=2000)["accuracy"]
    assert ours["high"] - ours["low"] == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 40), abs=0.03)


def test_same_seed_same_interval():
    generator = np.random.default_rng(0)
    some = predictions(generator.random(60) < 0.7)
    first, second, other = (with_intervals(some, False, 200, seed) for seed in (0, 0, 1))
    assert first == second
    assert first != other


def test_undefined_is_null_in_json():
    one_class = Predictions("test", ("a", "b"), np.array([0, 0]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    ours = json.loads(json.dumps(with_intervals(one_class, False, 20), allow_nan=False))
    assert ours["auroc"] == {"value": None, "low": None, "high": None}
    assert ours["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_one_group_has_a_value_but_no_interval():
    ours = with_intervals(predictions(np.ones(6), ("p",) * 6), False, 20)
    assert ours["accuracy"] == {"value": 1.0, "low": None, "high": None}


def test_the_threshold_moves_the_decision():
    some = predictions(np.ones(50))
    assert with_intervals(some, False, 20, threshold=0.9)["sensitivity"]["value"] == 0
    assert with_intervals(some, False, 20)["sensitivity"]["value"] == 1


def test_paired_difference_is_sharper_than_two_intervals():
    wrong_a, wrong_b = np.arange(200) % 10 < 3, np.arange(200) % 10 < 4  # b errs wherever a does
    a, b = predictions(~wrong_a), predictions(~wrong_b)
    ours = paired_difference(a, b, "accuracy", num_resamples=999)
    assert ours["value"] == pytest.approx(0.1)
    half_width = 1.96 * np.sqrt(0.1 * 0.9 / 200)
    assert ours["low"] == pytest.approx(0.1 - half_width, abs=0.01)
    assert ours["high"] == pytest.approx(0.1 + half_width, abs=0.01)
    assert ours["p_value"] == pytest.approx(2 / 1000)
    swapped = paired_difference(b, a, "accuracy", num_resamples=999)
    assert (swapped["value"], swapped["low"]) == (pytest.approx(-0.1), pytest.approx(-ours["high"]))


def test_one_pass_gives_every_difference_that_is_asked_for():
    generator = np.random.default_rng(2)
    a, b = (predictions(generator.random(80) < share) for share in (0.8, 0.6))
    ours = paired_differences(a, b, ["auroc", "accuracy"], num_resamples=120, seed=3)
    assert list(ours) == ["auroc", "accuracy"]
    for name, found in ours.items():
        assert found == paired_difference(a, b, name, num_resamples=120, seed=3)
        assert found["value"] == pytest.approx(
            with_intervals(a, False, 1)[name]["value"] - with_intervals(b, False, 1)[name]["value"]
        )
    assert ours["accuracy"]["p_value"] < 0.1
    alone = predictions(np.ones(6), ("p",) * 6)
    undefined = {"value": 0, "low": None, "high": None, "p_value": None}
    assert paired_differences(alone, alone, ["accuracy"], 20) == {"accuracy": undefined}


def test_any_statistic_can_be_resampled():
    groups = tuple("aabcccccdd")
    some = predictions(np.ones(10), groups)
    ours = bootstrap(some, lambda weights: {("rows", 0): weights.sum(axis=1)}, num_resamples=300, seed=1)
    sizes = np.concatenate(list(resample_weights(some, 300, seed=1))).sum(axis=1)
    low, high = np.quantile(sizes, [0.025, 0.975])
    assert ours == {("rows", 0): {"value": 10, "low": low, "high": high}}
    assert low < 10 < high


def test_no_difference_has_p_one():
    a = predictions(np.arange(50) % 3 > 0)
    assert paired_difference(a, a, "auroc", 50) == {"value": 0, "low": 0, "high": 0, "p_value": 1}


def test_p_value_is_uniform_without_a_difference():
    generator = np.random.default_rng(5)
    values = []
    for _ in range(60):
        right = generator.random((2, 100)) < 0.7
        values.append(paired_difference(*(predictions(side) for side in right), "accuracy", 200)["p_value"])
    assert np.mean(np.array(values) < 0.05) <= 0.12
    assert 0.35 < np.mean(values) < 0.65


def test_paired_difference_refuses_other_rows_and_unknown_metrics():
    a = predictions(np.ones(10))
    reordered = Predictions("test", a.ids[::-1], a.targets, a.scores)
    for other in (predictions(np.ones(8)), reordered, predictions(np.ones(10), tuple("ababababab"))):
        with pytest.raises(DataError, match="same ids"):
            paired_difference(a, other, "accuracy")
    with pytest.raises(ConfigError, match="'acc'"):
        paired_difference(a, a, "acc")


@pytest.mark.parametrize(("num_resamples", "level"), [(0, 0.95), (10, 1.0), (10, 0.0)])
def test_impossible_bootstraps_are_refused(num_resamples, level):
    a = predictions(np.ones(10))
    with pytest.raises(ConfigError, match="num_resamples >= 1"):
        with_intervals(a, False, num_resamples, level=level)
    with pytest.raises(ConfigError, match="num_resamples >= 1"):
        paired_differences(a, a, ["accuracy"], num_resamples, level=level)


@pytest.mark.parametrize(("groups", "least"), [(2, 0.5), (5, 0.0625), (40, 2 / 1001)])
def test_a_few_groups_cannot_be_sure_whatever_they_say(groups: int, least: float) -> None:
    targets = np.tile(np.array([0, 1], dtype=np.int64), 40)
    right = np.eye(2)[targets] * 0.8 + 0.1
    members = tuple(f"p{row % groups}" for row in range(80))
    ids = tuple(map(str, range(80)))
    better, worse = (Predictions("test", ids, targets, scores, members) for scores in (right, right[:, ::-1].copy()))
    assert paired_difference(better, worse, "accuracy")["p_value"] == pytest.approx(least)
