"""How many labels each round ends with, and the values that are refused."""

import pytest

from reprogram.active.options import Options
from reprogram.errors import ConfigError


def test_rounds_end_at_fractions_of_the_pool() -> None:
    options = Options([0.05, 0.1, 0.2, 0.3, 0.45, 0.6])
    assert options.targets(1000, known=0) == [50, 100, 200, 300, 450, 600]
    assert options.targets(7, known=0) == [1, 2, 3, 4, 5]  # rounded up, and no round without a new label
    assert options.targets(1000, known=120) == [120, 200, 300, 450, 600]


def test_a_bound_ends_the_last_round() -> None:
    assert Options([0.1, 0.5, 1.0], max_labels=70).targets(100, known=0) == [10, 50, 70]


def test_a_pool_that_is_labelled_enough_is_refused() -> None:
    with pytest.raises(ConfigError, match="30 of 100 examples are labelled, expected fewer than"):
        Options([0.1, 0.3]).targets(100, known=30)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fractions": []}, "active.fractions: expected rising numbers"),
        ({"fractions": [0.2, 0.1]}, "active.fractions: expected rising numbers"),
        ({"fractions": [0.0, 0.1]}, "active.fractions: expected rising numbers"),
        ({"fractions": [0.5, 1.1]}, "active.fractions: expected rising numbers"),
        ({"max_labels": 0}, "active.max_labels: expected a whole number >= 1 or null, got 0"),
        ({"confidence": 1.0}, "active.confidence: expected a number in"),
        ({"price_per_label": -1.0}, "active.price_per_label: expected a number > 0"),
        ({"labels": "doctor"}, "active.labels: expected one of data, person, got 'doctor'"),
        ({"train": "never"}, "active.train: expected one of null, each, last, got 'never'"),
    ],
)
def test_wrong_values_are_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**{"fractions": [0.1], **values})
