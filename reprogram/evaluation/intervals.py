"""Percentile bootstrap: how far a metric, or a difference of two, could be luck of the examples drawn."""

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import ConfigError, DataError
from reprogram.evaluation.metrics import Floats, evaluate
from reprogram.evaluation.predictions import Predictions

Interval = dict[str, float | None]
Key = TypeVar("Key", bound=Hashable)

_CHUNK = 100  # resamples at a time: memory does not grow with their number, and a chunk stays in the cache


def resample_weights(predictions: Predictions, num_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn in each resample; the rows of a group come and go together.

    Args:
        predictions: Their groups are drawn with replacement, as many as there are; without groups, their rows.
        num_resamples: R, >= 1.
        seed: The same seed and the same groups (or number of rows) give the same resamples.

    Yields:
        Consecutive chunks [<= 100, N] of the weights [R, N], whole numbers.
    """
    unit_of_row = _units(predictions)
    num_units = int(unit_of_row.max()) + 1
    generator = np.random.default_rng(seed)
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        drawn = generator.integers(num_units, size=(size, num_units)) + num_units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_units).reshape(size, num_units)
        yield counts[:, unit_of_row].astype(np.float64)


def with_intervals(
    predictions: Predictions,
    ordinal: bool,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    threshold: float | None = None,
) -> dict[str, Interval]:
    """Every metric of ``evaluate`` as ``{"value", "low", "high"}``, ready for JSON: undefined is ``None``.

    Resamples in which a metric is undefined are left out of its interval. A split of one group has no interval.

    Args:
        predictions: Whole groups are resampled where there are groups, else rows.
        ordinal: Whether the order of the classes means something.
        num_resamples: R, >= 1.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval, in (0, 1).
        threshold: Decides two classes by the score of class 1; ``None`` decides for the most probable class.

    Raises:
        ConfigError: If ``num_resamples`` or ``level`` is out of range.

    Reference:
        An introduction to the bootstrap, Efron and Tibshirani, 1993, section 13.3.
    """

    def metrics(weights: Floats) -> dict[str, Floats]:
        return evaluate(predictions.targets, predictions.scores, weights, ordinal, threshold)

    return bootstrap(predictions, metrics, num_resamples, seed, level)


def bootstrap(
    predictions: Predictions,
    statistics: Callable[[Floats], dict[Key, Floats]],
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    test: bool = False,
) -> dict[Key, Interval]:
    """Any statistics of the rows with their intervals, see ``with_intervals``.

    Args:
        predictions: Give the groups, or the number of rows.
        statistics: What weights of the rows, [R, N], give: any number of [R], NaN where undefined.
        num_resamples: R, >= 1.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval, in (0, 1).
        test: Whether the statistics are differences, whose ``p_value`` is wanted, see ``paired_differences``.

    Raises:
        ConfigError: If ``num_resamples`` or ``level`` is out of range.
    """
    found = _resampled(predictions, statistics, num_resamples, seed, level)
    units = int(_units(predictions).max()) + 1
    return {
        key: _interval(value, resampled, level) | ({"p_value": _p_value(resampled, units)} if test else {})
        for key, (value, resampled) in found.items()
    }


def paired_differences(
    a: Predictions,
    b: Predictions,
    metrics: Collection[str],
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Metrics of ``a`` minus metrics of ``b`` on the same examples, both scored on the same resamples.

    Args:
        a: Predictions of one model.
        b: Predictions of another model for the same rows in the same order.
        metrics: Names from ``evaluate``; no others are computed.
        num_resamples: R, >= 1.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval, in (0, 1).

    Returns:
        For each metric ``value``, ``low``, ``high`` and the two-sided ``p_value`` =
        2 (1 + smaller of #(d <= 0), #(d >= 0)) / (1 + R), at most 1, where d are the resampled differences, and not
        below 2^(1 - n), what a sign test of n groups can reach; ``None`` where undefined.

    Raises:
        ConfigError: If a metric is unknown, or ``num_resamples`` or ``level`` is out of range.
        DataError: If the rows, their targets or their groups disagree.

    Reference:
        An introduction to the bootstrap, Efron and Tibshirani, 1993, sections 13.3 and 15.4.
    """
    if a.ids != b.ids or a.groups != b.groups or not np.array_equal(a.targets, b.targets):
        raise DataError(
            f"paired_differences: expected the same ids, targets and groups in the same order, got {len(a.ids)} rows "
            f"of '{a.split}' and {len(b.ids)} of '{b.split}' that differ; compare runs with the same data and split"
        )

    def difference(weights: Floats) -> dict[str, Floats]:
        # Kappa exists for any classes here: whoever asks for it knows that they are ordered.
        first, second = (evaluate(a.targets, side.scores, weights, ordinal=True, names=metrics) for side in (a, b))
        return {name: first[name] - second[name] for name in first}

    return bootstrap(a, difference, num_resamples, seed, level, test=True)


def paired_difference(
    a: Predictions, b: Predictions, metric: str, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """``paired_differences`` of one metric."""
    return paired_differences(a, b, [metric], num_resamples, seed)[metric]


def _resampled(
    predictions: Predictions,
    statistics: Callable[[Floats], dict[Key, Floats]],
    num_resamples: int,
    seed: int,
    level: float,
) -> dict[Key, tuple[float, Floats]]:
    """Each statistic of the rows as they are, and its defined values over the resamples: none if all is one group."""
    if num_resamples < 1 or not 0 < level < 1:
        raise ConfigError(
            f"bootstrap: expected num_resamples >= 1 and 0 < level < 1, got {num_resamples} and {level}; "
            "the usual ones are 1000 and 0.95"
        )
    values = statistics(np.ones((1, len(predictions.ids))))
    single = int(_units(predictions).max()) == 0
    chunks = [] if single else [statistics(weights) for weights in resample_weights(predictions, num_resamples, seed)]
    found = {key: np.concatenate([np.empty(0), *(chunk[key] for chunk in chunks)]) for key in values}
    return {key: (float(value[0]), found[key][~np.isnan(found[key])]) for key, value in values.items()}


def _units(predictions: Predictions) -> NDArray[np.int64]:
    """Number of the group of each row, or of the row itself: [N]."""
    if predictions.groups is None:
        return np.arange(len(predictions.ids), dtype=np.int64)
    return np.unique(np.array(predictions.groups), return_inverse=True)[1].astype(np.int64)


def _interval(value: float, resampled: Floats, level: float) -> Interval:
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    if not len(resampled):
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return {"value": value, "low": low, "high": high}


def _p_value(differences: Floats, units: int) -> float | None:
    if not len(differences):
        return None
    fewest = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2.0 ** (1 - units), 2 * (1 + fewest) / (1 + len(differences))))
