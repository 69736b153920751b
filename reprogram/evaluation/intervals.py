"""Percentile bootstrap: how far a metric, or a difference of two, could be luck of the examples drawn."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import ConfigError, DataError
from reprogram.evaluation.metrics import Floats, evaluate
from reprogram.evaluation.predictions import Predictions

Interval = dict[str, float | None]

_CHUNK = 50  # resamples at a time: memory does not grow with their number, and a chunk stays in the cache


def resample_weights(predictions: Predictions, num_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn in each resample; the rows of a group come and go together.

    Args:
        predictions: Their groups are drawn with replacement, as many as there are; without groups, their rows.
        num_resamples: R, >= 1.
        seed: The same seed and the same groups (or number of rows) give the same resamples.

    Yields:
        Consecutive chunks [<= 50, N] of the weights [R, N], whole numbers.
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
    _check(num_resamples, level)
    values = evaluate(predictions.targets, predictions.scores, None, ordinal, threshold)
    chunks = [
        evaluate(predictions.targets, predictions.scores, weights, ordinal, threshold)
        for weights in resample_weights(predictions, num_resamples, seed)
    ]
    single = int(_units(predictions).max()) == 0
    return {
        name: _interval(float(value[0]), np.concatenate([chunk[name] for chunk in chunks]), level, single)
        for name, value in values.items()
    }


def paired_difference(
    a: Predictions, b: Predictions, metric: str, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Metric of ``a`` minus metric of ``b`` on the same examples, both scored on the same resamples.

    Args:
        a: Predictions of one model.
        b: Predictions of another model for the same rows in the same order.
        metric: A name from ``evaluate``.
        num_resamples: R, >= 1.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval, in (0, 1).

    Returns:
        ``value``, ``low``, ``high`` and the two-sided ``p_value`` = 2 (1 + smaller of #(d <= 0), #(d >= 0)) / (1 + R),
        at most 1, where d are the resampled differences; ``None`` where undefined.

    Raises:
        ConfigError: If the metric is unknown, or ``num_resamples`` or ``level`` is out of range.
        DataError: If the rows, their targets or their groups disagree.

    Reference:
        An introduction to the bootstrap, Efron and Tibshirani, 1993, sections 13.3 and 15.4.
    """
    _check(num_resamples, level)
    if a.ids != b.ids or a.groups != b.groups or not np.array_equal(a.targets, b.targets):
        raise DataError(
            f"paired_difference: expected the same ids, targets and groups in the same order, got {len(a.ids)} rows "
            f"of '{a.split}' and {len(b.ids)} of '{b.split}' that differ; compare runs with the same data and split"
        )

    def difference(weights: Floats | None) -> Floats:
        # Kappa exists for any classes here: whoever asks for it knows that they are ordered.
        first, second = (evaluate(side.targets, side.scores, weights, ordinal=True) for side in (a, b))
        if metric not in first:
            raise ConfigError(f"paired_difference: expected a metric among {sorted(first)}, got '{metric}'")
        return first[metric] - second[metric]

    value = float(difference(None)[0])
    resampled = np.concatenate([difference(weights) for weights in resample_weights(a, num_resamples, seed)])
    interval = _interval(value, resampled, level, single=int(_units(a).max()) == 0)
    if interval["low"] is None:
        return {**interval, "p_value": None}
    defined = resampled[~np.isnan(resampled)]
    fewest = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return {**interval, "p_value": min(1.0, 2 * (1 + fewest) / (1 + len(defined)))}


def _units(predictions: Predictions) -> NDArray[np.int64]:
    """Number of the group of each row, or of the row itself: [N]."""
    if predictions.groups is None:
        return np.arange(len(predictions.ids), dtype=np.int64)
    return np.unique(np.array(predictions.groups), return_inverse=True)[1].astype(np.int64)


def _interval(value: float, resampled: Floats, level: float, single: bool) -> Interval:
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    if single or not len(defined):
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return {"value": value, "low": low, "high": high}


def _check(num_resamples: int, level: float) -> None:
    if num_resamples < 1 or not 0 < level < 1:
        raise ConfigError(
            f"bootstrap: expected num_resamples >= 1 and 0 < level < 1, got {num_resamples} and {level}; "
            "the usual ones are 1000 and 0.95"
        )
