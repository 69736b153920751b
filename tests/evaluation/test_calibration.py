import math

import numpy as np
import pytest

from reprogram.errors import ConfigError
from reprogram.evaluation.calibration import calibrated, fit_temperature
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.predictions import Predictions


def predictions(targets: np.ndarray, scores: np.ndarray) -> Predictions:
    return Predictions(
        "val", tuple(map(str, range(len(targets)))), targets, scores, None, {"sex": ("f",) * len(targets)}
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def drawn(num_rows: int, num_classes: int, sharpness: float) -> Predictions:
    """Classes drawn from probabilities, which are then reported ``sharpness`` times too sharp."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(num_rows, num_classes))
    targets = np.array([generator.choice(num_classes, p=row) for row in softmax(logits)])
    return predictions(targets, softmax(sharpness * logits))


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(sharpness):
    some = drawn(3000, 4, sharpness)
    temperature = fit_temperature(some)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    before, after = point_metrics(some, False), point_metrics(calibrated(some, temperature), False)
    assert after["nll"] <= before["nll"]
    assert after["ece"] < 0.03
    for near in (0.98, 1.02):
        assert point_metrics(calibrated(some, near * temperature), False)["nll"] > after["nll"]


def test_the_temperature_by_hand():
    # All say 80 %, 60 % are right: softmax((log .8, log .2) / T) = (.6, .4) at T = log 4 / log 1.5.
    some = predictions(np.array([0, 0, 0, 1, 1] * 4), np.array([[0.8, 0.2]] * 20))
    temperature = fit_temperature(some)
    assert temperature == pytest.approx(math.log(4) / math.log(1.5), abs=1e-6)
    np.testing.assert_allclose(calibrated(some, temperature).scores, [[0.6, 0.4]] * 20, atol=1e-6)


def test_of_two_classes_neither_decisions_nor_ranks_change():
    some = drawn(400, 2, 2.5)
    before = point_metrics(some, False)
    for temperature in (0.5, 1.0, fit_temperature(some), 20.0):
        after = calibrated(some, temperature)
        for name in ("accuracy", "sensitivity", "specificity", "auroc", "auprc"):
            assert point_metrics(after, False)[name] == before[name], (name, temperature)
        assert (after.scores.argmax(axis=1) == some.scores.argmax(axis=1)).all()
        assert (after.ids, after.attributes) == (some.ids, some.attributes)


def test_probabilities_of_zero_stay_probabilities():
    scores = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]] * 10)
    some = predictions(np.array([0, 1, 1, 1, 0] * 4), scores)  # some have a target of probability 0
    temperature = fit_temperature(some)
    assert 1 < temperature <= 20
    after = calibrated(some, temperature).scores
    assert (after[0] > 0).all()
    assert after[1, 0] < 0.01
    np.testing.assert_allclose(after[1, 1:], (1 - after[1, 0]) / 2)


def test_nothing_changes_where_validation_cannot_tell():
    sharp, row = np.array([[0.8, 0.2]] * 20), np.arange(20)
    assert fit_temperature(predictions(np.zeros(20, dtype=np.int64), sharp)) == 1
    assert fit_temperature(predictions(np.array([0, 1] * 4), sharp[:8])) == 1
    assert fit_temperature(predictions(row % 2, np.where((row % 2 == 0)[:, None], sharp, sharp[:, ::-1]))) == 1
    some = drawn(10, 3, 1.0)
    np.testing.assert_array_equal(calibrated(some, 1.0).scores, some.scores)


def test_a_hopeless_classifier_is_flattened_within_bounds():
    targets = np.arange(20) % 2
    wrong = np.where((targets == 1)[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
    temperature = fit_temperature(predictions(targets, wrong))
    assert temperature == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ConfigError, match="temperature above 0"):
        calibrated(drawn(10, 3, 1.0), temperature)
