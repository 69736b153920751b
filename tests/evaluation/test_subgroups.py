import logging

import numpy as np
import pytest

from reprogram.errors import ConfigError
from reprogram.evaluation.intervals import with_intervals
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.subgroups import subgroups

BANDS = {"age": [12, 18, 30.5], "mean_fd": [0.1]}


def predictions(num_rows: int = 12, **attributes: tuple[str, ...]) -> Predictions:
    generator = np.random.default_rng(0)
    targets = np.arange(num_rows) % 2
    positive = np.round(generator.random(num_rows), 2)
    ids = tuple(map(str, range(num_rows)))
    groups = tuple(f"patient{row // 2}" for row in range(num_rows))
    return Predictions("test", ids, targets, np.stack([1 - positive, positive], axis=1), groups, attributes)


def test_each_value_has_the_metrics_of_its_own_rows():
    some = predictions(sex=("f", "m", "", "f", "m", "f", "unknown", "f", "m", "m", "f", ""))
    ours = subgroups(some, BANDS, False, 50, seed=3, threshold=0.4)
    assert list(ours) == ["sex"]
    assert list(ours["sex"]) == ["f", "m", "unknown"]
    for value, rows in (("f", [0, 3, 5, 7, 10]), ("m", [1, 4, 8, 9]), ("unknown", [2, 6, 11])):
        assert ours["sex"][value] == {
            "n": len(rows),
            "metrics": with_intervals(some.subset(rows), False, 50, seed=3, threshold=0.4),
        }
    decided = some.scores[[1, 4, 8, 9], 1] >= 0.4
    accuracy = (decided == some.targets[[1, 4, 8, 9]]).mean()
    assert ours["sex"]["m"]["metrics"]["accuracy"]["value"] == accuracy


def test_a_number_falls_into_the_band_that_it_opens():
    ages = ("12", "11.9", "17.999", "18", "30.4", "30.5", "91", "", "adult", "nan", "-1", "1e1")
    ours = subgroups(predictions(age=ages), BANDS, False, 5, seed=0)["age"]
    assert {value: found["n"] for value, found in ours.items()} == {
        "<12": 3, "12-18": 2, "18-30.5": 2, ">=30.5": 2, "unknown": 3,
    }  # fmt: skip
    assert list(ours) == ["<12", "12-18", "18-30.5", ">=30.5", "unknown"]


def test_a_band_without_examples_is_not_shown_and_one_edge_makes_two_bands():
    some = predictions(4, age=("1", "2", "40", "40"), mean_fd=("0.05", "0.1", "0.2", ""))
    ours = subgroups(some, BANDS, False, 5, seed=0)
    assert list(ours["age"]) == ["<12", ">=30.5"]
    assert {value: found["n"] for value, found in ours["mean_fd"].items()} == {"<0.1": 1, ">=0.1": 2, "unknown": 1}


def test_an_attribute_of_too_many_values_is_left_out_aloud(caplog):
    weights = tuple(str(row) for row in range(31))
    some = predictions(31, weight=weights, age=weights, ward=tuple("ab"[row % 2] for row in range(31)))
    with caplog.at_level(logging.WARNING):
        ours = subgroups(some, BANDS, False, 5, seed=0)
    assert list(ours) == ["age", "ward"]
    assert [record.getMessage() for record in caplog.records] == [
        "weight is no subgroup: it has 31 values, at most 30 are reported; give it bands if it is a number"
    ]
    assert len(subgroups(some.subset(range(30)), {}, False, 2, seed=0)["weight"]) == 30


def test_no_attributes_no_subgroups():
    assert subgroups(predictions(), BANDS, True, 5, seed=0) == {}


@pytest.mark.parametrize("edges", [[], [18, 12], [12, 12]])
def test_edges_must_ascend(edges):
    with pytest.raises(ConfigError, match="bands of age: expected ascending edges"):
        subgroups(predictions(4, age=("1", "2", "3", "4")), {"age": edges}, False, 5, seed=0)
