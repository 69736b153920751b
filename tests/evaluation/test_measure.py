"""What a run says of its predictions."""

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from reprogram.errors import ConfigError
from reprogram.evaluation.calibration import calibrated, fit_temperature
from reprogram.evaluation.measure import Choices, measure
from reprogram.evaluation.predictions import Predictions
from reprogram.types import TaskSpec

CHOICES = Choices(num_resamples=30, bands={"age": [30, 60]})


def predictions(split: str, classes: int = 2, rows: int = 80, skill: float = 2.0, seed: int = 0) -> Predictions:
    generator = np.random.default_rng((seed, rows, classes, len(split)))
    targets = np.arange(rows, dtype=np.int64) % classes
    logits = generator.normal(size=(rows, classes)) * 3
    logits[np.arange(rows), targets] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    attributes = {
        "age": tuple(str(20 + row) for row in range(rows)),
        "sex": tuple("fm"[row % 3 > 0] for row in range(rows)),
    }
    return Predictions(split, tuple(f"{split}{row}" for row in range(rows)), targets, scores, None, attributes)


def both(classes: int = 2, skill: float = 2.0, seed: int = 0) -> dict[str, Predictions]:
    return {split: predictions(split, classes, skill=skill, seed=seed) for split in ("val", "test")}


def task(classes: int) -> TaskSpec:
    return TaskSpec("toy", tuple("abcdefg"[:classes]), (2, 2), ordinal=classes > 2)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_record_is_json_and_agrees_with_scikit_learn(classes: int) -> None:
    raw = both(classes)
    found = measure(raw, {"majority": both(classes, skill=0.0, seed=1)}, task(classes), CHOICES)
    json.dumps(found.record, allow_nan=False)
    test, record = found.predictions["test"], found.record
    assert record["test"]["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(test.targets, test.scores.argmax(axis=1)), abs=1e-9
    )
    scores = test.scores[:, 1] if classes == 2 else test.scores
    expected = roc_auc_score(test.targets, scores, multi_class="ovr", average="macro")
    assert record["test"]["auroc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert set(record["per_class"]) == set("abcdefg"[:classes])
    assert sum(map(sum, record["confusion"])) == 80
    assert record["over_baselines"]["majority"]["accuracy"]["value"] > 0
    assert [entry["n"] for entry in record["groups"]["age"].values()] == [10, 30, 40]
    assert set(record["groups"]["sex"]) == {"f", "m"}


def test_scores_are_calibrated_by_what_validation_says_and_each_baseline_by_its_own() -> None:
    raw, other = both(), both(skill=0.5, seed=3)
    found = measure(raw, {"other": other}, task(2), CHOICES)
    temperature = fit_temperature(raw["val"])
    assert temperature > 1.2  # the toy is overconfident
    assert found.temperature == temperature == found.record["calibration"]["temperature"]
    assert np.array_equal(found.predictions["test"].scores, calibrated(raw["test"], temperature).scores)
    own = calibrated(other["test"], fit_temperature(other["val"]))
    assert np.array_equal(found.baselines["other"]["test"].scores, own.scores)
    before = found.record["calibration"]["test_before"]["nll"]
    assert found.record["test"]["nll"]["value"] < before
    plain = measure(raw, {}, task(2), Choices(num_resamples=5, calibration="none"))
    assert plain.temperature == 1.0
    assert plain.predictions["test"] is raw["test"]
    assert plain.record["test"]["nll"]["value"] == pytest.approx(before)


def test_the_operating_point_is_chosen_on_validation_and_told_on_test() -> None:
    found = measure(both(), {}, task(2), Choices(num_resamples=5, operating_point="fixed_specificity"))
    points = found.record["operating_points"]
    assert set(points) == {"youden", "fixed_specificity", "fixed_sensitivity"}
    assert found.threshold == points["fixed_specificity"]["threshold"] == found.record["threshold"]
    assert points["fixed_specificity"]["val"]["specificity"] >= 0.9
    assert points["fixed_sensitivity"]["val"]["sensitivity"] >= 0.9
    test = found.predictions["test"]
    decided = test.scores[:, 1] >= found.threshold
    assert found.record["test_at_threshold"]["specificity"]["value"] == (~decided[test.targets == 0]).mean()
    assert found.record["confusion"][1][1] == decided[test.targets == 1].sum()


def test_more_than_two_classes_have_no_operating_point() -> None:
    found = measure(both(5), {}, task(5), CHOICES)
    assert found.threshold is None
    assert found.record["operating_points"] == {}
    assert found.record["test_at_threshold"] is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"calibration": "platt"}, r"evaluation\.calibration: expected one of temperature, none, got 'platt'"),
        ({"operating_point": "best"}, r"evaluation\.operating_point: expected one of youden"),
        ({"fixed_specificity": 1.0}, r"evaluation\.fixed_specificity: expected a number in \(0, 1\), got 1.0"),
        ({"bands": {"age": [60, 30]}}, r"evaluation\.bands\.age: expected ascending edges, got \[60, 30\]"),
    ],
)
def test_a_wrong_choice_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Choices(**wrong)  # type: ignore[arg-type]
