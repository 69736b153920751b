"""Which rows a strategy chooses: the worked examples, and pools whose answer is known."""

import numpy as np
import pytest

from reprogram.active.strategies import MEASURES, UNKNOWN, Pool, RandomChoice, Uncertainty
from reprogram.errors import ConfigError

pytest.importorskip("skactiveml")

A, B = [0.4, 0.55, 0.05], [0.25, 0.25, 0.5]


def pool(probabilities, labels=None, closed=()) -> Pool:
    size = len(probabilities)
    shut = np.zeros(size, dtype=bool)
    shut[list(closed)] = True
    return Pool(np.array([UNKNOWN] * size if labels is None else labels), shut, np.array(probabilities, dtype=float))


@pytest.mark.parametrize(("measure", "first"), [("least_confidence", 1), ("margin", 0), ("entropy", 1)])
def test_the_worked_example_of_three_classes(measure: str, first: int) -> None:
    """Least confidence: 0.55 against 0.5, so B. Margin: 0.15 against 0.25, so A."""
    assert Uncertainty(measure).choose(pool([A, B]), 1, seed=0).tolist() == [first]
    assert Uncertainty(measure).choose(pool([B, A]), 1, seed=0).tolist() == [1 - first]


@pytest.mark.parametrize("measure", MEASURES)
def test_the_least_certain_come_first_and_only_open_ones(measure: str) -> None:
    sure = np.array([0.95, 0.55, 0.99, 0.5, 0.7, 0.6])
    two = np.stack([sure, 1 - sure], axis=1)
    assert Uncertainty(measure).choose(pool(two), 4, seed=3).tolist() == [3, 1, 5, 4]
    known = pool(two, labels=[UNKNOWN, 1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN], closed=[3])
    assert Uncertainty(measure).choose(known, 2, seed=3).tolist() == [5, 4]


def test_more_than_there_is_gives_all_there_is() -> None:
    assert sorted(Uncertainty("margin").choose(pool([A, B], labels=[0, UNKNOWN]), 5, seed=0).tolist()) == [1]


@pytest.mark.parametrize("strategy", [RandomChoice(), *map(Uncertainty, MEASURES)])
def test_nothing_is_chosen_where_nothing_is_open(strategy) -> None:
    assert strategy.choose(pool([A, B], labels=[0, UNKNOWN], closed=[1]), 1, seed=0).tolist() == []


@pytest.mark.parametrize("strategy", [RandomChoice(), Uncertainty("entropy")])
def test_ties_are_drawn_by_the_seed(strategy) -> None:
    even = pool([[0.5, 0.5]] * 200)
    first, again, other = (strategy.choose(even, 20, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 20
    assert 60 < np.mean(strategy.choose(even, 150, 5)) < 140  # not the first ones


def test_before_there_is_a_model_rows_are_drawn_evenly() -> None:
    unscored = Pool(np.full(100, UNKNOWN), np.zeros(100, dtype=bool))
    assert np.array_equal(Uncertainty("margin").choose(unscored, 10, 4), RandomChoice().choose(unscored, 10, 4))


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"active.strategy.measure: expected one of least_confidence, "):
        Uncertainty("variance")
