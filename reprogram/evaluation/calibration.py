"""Temperature scaling: confidence that means what it says, fitted on validation."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from reprogram.errors import ConfigError
from reprogram.evaluation.predictions import Predictions

_BOUNDS = (0.05, 20.0)
_FEWEST = 10  # rows that a temperature may be fitted to
_LEAST = float(np.finfo(np.float32).smallest_subnormal)  # what a float32 probability of 0 may have been


def fit_temperature(validation: Predictions) -> float:
    """The temperature T in [0.05, 20] with the least negative log-likelihood of softmax(log p / T).

    Below 1 it sharpens the probabilities, above 1 it flattens them. It is 1, which changes nothing, where validation
    cannot tell: for fewer than ten rows or a single true class, and where every row is decided rightly, as the
    likelihood then rises for ever as T falls.

    Args:
        validation: Predictions of the validation split.

    Reference:
        On calibration of modern neural networks, Guo et al., ICML 2017, arXiv 1706.04599, section 4.2.
    """
    targets, scores = validation.targets, validation.scores
    rows = np.arange(len(targets))
    rightly = scores[rows, targets] >= scores.max(axis=1)
    if len(rows) < _FEWEST or len(np.unique(targets)) < 2 or rightly.all():
        return 1.0
    logits = _logits(scores)

    def loss(log_temperature: float) -> float:
        """Convex in 1 / T, so it has one minimum."""
        return -float(log_softmax(logits / math.exp(log_temperature), axis=1)[rows, targets].mean())

    found = minimize_scalar(
        loss, bounds=[math.log(bound) for bound in _BOUNDS], method="bounded", options={"xatol": 1e-8}
    )
    return math.exp(found.x)


def calibrated(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with probabilities softmax(log p / T); a probability of 0 counts as the least of float32.

    The most probable class stays, and with two classes so does the order of the examples, except that scores that
    come to be equal to within float64 become ties.

    Raises:
        ConfigError: If the temperature is not a positive number.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"calibrated: expected a temperature above 0, got {temperature}; 1 changes nothing")
    if temperature == 1:
        return predictions
    return replace(predictions, scores=np.exp(log_softmax(_logits(predictions.scores) / temperature, axis=1)))


def _logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(scores, _LEAST))
