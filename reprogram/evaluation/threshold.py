"""From probabilities to a decision."""

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import ConfigError
from reprogram.evaluation.predictions import Predictions

Floats = NDArray[np.float64]

POINTS = ("youden", "fixed_specificity", "fixed_sensitivity")


def operating_points(validation: Predictions, specificity: float, sensitivity: float) -> dict[str, float]:
    """Thresholds on the positive score (class 1 of two), chosen on validation, by name.

    - ``youden``: see ``operating_threshold``.
    - ``fixed_specificity``: the lowest, so the most sensitive, whose specificity is at least the one asked for.
    - ``fixed_sensitivity``: the highest, so the most specific, whose sensitivity is at least the one asked for.

    They lie half-way between two neighbouring scores, or half-way from the scores to 0 or 1 where all examples must
    fall on one side. Equal scores fall on the same side, so what is reached may be more than what is asked for. What
    not even the last threshold inside (0, 1) reaches, because wrong examples score exactly 0 or 1, is missed as
    little as possible.

    Args:
        validation: Predictions of the validation split.
        specificity: Least share of the negatives to be decided negative, in (0, 1].
        sensitivity: Least share of the positives to be decided positive, in (0, 1].

    Returns:
        Numbers in (0, 1) by the names of ``POINTS``; nothing where ``operating_threshold`` cannot tell.

    Raises:
        ConfigError: If a share is out of range.
    """
    for name, share in (("specificity", specificity), ("sensitivity", sensitivity)):
        if not 0 < share <= 1:
            raise ConfigError(f"operating_points: expected a {name} in (0, 1], got {share}; a usual one is 0.9")
    youden = operating_threshold(validation)
    if youden is None:
        return {}
    thresholds, rejected, caught = _trade_off(validation)
    negatives, positives = np.bincount(validation.targets)
    specific = np.flatnonzero(rejected / negatives >= specificity)
    sensitive = np.flatnonzero(caught / positives >= sensitivity)
    return {
        "youden": youden,
        "fixed_specificity": float(thresholds[specific[0] if len(specific) else -1]),
        "fixed_sensitivity": float(thresholds[sensitive[-1] if len(sensitive) else 0]),
    }


def operating_threshold(validation: Predictions) -> float | None:
    """Threshold on the positive score (class 1 of two) that maximises balanced accuracy on validation.

    The same as maximising Youden's J = sensitivity + specificity - 1. It lies half-way between two neighbouring
    scores; of equally good ones, the nearest to 0.5 is taken.

    Returns:
        A number in (0, 1), or ``None`` (decide for the most probable class) when there are more than two classes,
        or the split has one class or one distinct score only and so cannot tell.

    Reference:
        Index for rating diagnostic tests, W. J. Youden, Cancer 1950.
    """
    if validation.num_classes != 2 or len(np.unique(validation.targets)) < 2:
        return None
    thresholds, rejected, caught = _trade_off(validation)
    inside = (thresholds > validation.scores[:, 1].min()) & (thresholds <= validation.scores[:, 1].max())
    if not inside.any():
        return None
    negatives, positives = np.bincount(validation.targets)
    youden = rejected * positives + caught * negatives  # J + 1 times a constant: whole numbers tie exactly
    best = np.flatnonzero(inside & (youden == youden[inside].max()))
    return float(thresholds[best[np.abs(thresholds[best] - 0.5).argmin()]])


def _trade_off(validation: Predictions) -> tuple[Floats, Floats, Floats]:
    """Every threshold that makes a difference, ascending, and how many negatives it rejects, positives it catches."""
    levels, level_of = np.unique(validation.scores[:, 1], return_inverse=True)
    negatives, positives = (
        np.bincount(level_of, weights=validation.targets == label, minlength=len(levels)) for label in (0, 1)
    )
    below, above = np.concatenate([[0], levels]), np.concatenate([levels, [1]])
    between = below + (above - below) / 2
    between = np.where(between > below, between, above)  # neighbouring floats have nothing between them
    rejected, missed = (np.concatenate([[0], counts.cumsum()]) for counts in (negatives, positives))
    usable = (between > 0) & (between < 1)
    return between[usable], rejected[usable], (positives.sum() - missed)[usable]


def decide(scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.int64]:
    """Class of each example: the most probable one, or class 1 of two where its score reaches ``threshold``.

    Shapes:
        scores: [N, K_t] -> [N] int64.

    Raises:
        ConfigError: If a threshold is given for more than two classes.
    """
    decided: NDArray[np.int64] = scores.argmax(axis=1)
    if threshold is None:
        return decided
    if scores.shape[1] != 2:
        raise ConfigError(f"decide: a threshold is for two classes, got {scores.shape[1]}; leave it out")
    return np.where(scores[:, 1] >= threshold, np.int64(1), np.int64(0))
