"""From probabilities to a decision."""

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import ConfigError
from reprogram.evaluation.predictions import Predictions


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
    levels, level_of = np.unique(validation.scores[:, 1], return_inverse=True)
    if len(levels) < 2:
        return None
    negatives, positives = (
        np.bincount(level_of, weights=validation.targets == label, minlength=len(levels)) for label in (0, 1)
    )
    missed, rejected = positives.cumsum()[:-1], negatives.cumsum()[:-1]  # at or below each level but the highest
    youden = rejected * positives.sum() - missed * negatives.sum()  # J times a constant: whole numbers tie exactly
    between = levels[:-1] + np.diff(levels) / 2
    between = np.where(between > levels[:-1], between, levels[1:])  # neighbouring floats have nothing between them
    best = np.flatnonzero(youden == youden.max())
    return float(between[best[np.abs(between[best] - 0.5).argmin()]])


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
