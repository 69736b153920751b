"""Classification metrics for many weightings of the same examples at once, as a bootstrap needs them.

Every function works on weights [R, N]: R resamples of N examples, an integer weight being how often an example was
drawn. What a weighting leaves undefined (no positive example, say) is NaN, never a guess.
"""

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from reprogram.errors import ConfigError
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.threshold import decide

Floats = NDArray[np.float64]

_RANKED = frozenset({"auroc", "auprc"})
_NUM_BINS = 15
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)  # a target given probability 0 costs 36 nats, not infinity


def evaluate(
    targets: NDArray[np.int64],
    scores: Floats,
    weights: Floats | None,
    ordinal: bool,
    threshold: float | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Floats]:
    """All metrics of one set of predictions under each weighting.

    - ``accuracy``, ``balanced_accuracy`` (mean recall), ``f1_macro``, and for two classes ``sensitivity`` and
      ``specificity``: of the decision.
    - ``auroc``, ``auprc`` (average precision): class 1 is the positive one of two; the macro mean of one-versus-rest
      over more classes.
    - ``quadratic_kappa``: of the decision; only for ordered classes, or for two (where it is Cohen's kappa), because
      the distance of unordered classes means nothing.
    - ``nll``: mean negative log-probability of the target in nats. ``ece``: expected calibration error of the most
      probable class in 15 equal bins of confidence; both whatever the threshold.

    A macro mean runs over the classes that a weighting holds (for F1: true or decided), so a resample without a rare
    class is scored on the others; scikit-learn would refuse it (AUROC) or count a zero (average precision).

    Args:
        targets: True classes.
        scores: Class probabilities.
        weights: Weightings >= 0, each with a positive sum; ``None`` is one weighting of ones.
        ordinal: Whether the order of the classes means something.
        threshold: Decides two classes by the score of class 1; ``None`` decides for the most probable class.
        names: The metrics wanted; ``None``: all there are. Most of the time goes into ``auroc`` and ``auprc``.

    Shapes:
        targets: [N], scores: [N, K_t], weights: [R, N] -> [R] for each metric.

    Raises:
        ConfigError: If these classes have no metric of such a name.

    Reference:
        Calibration: On calibration of modern neural networks, Guo et al., ICML 2017, arXiv 1706.04599, Eq. 3.
        Kappa: Weighted kappa, J. Cohen, Psychological Bulletin 1968.
    """
    rows, num_classes = scores.shape
    weights = np.ones((1, rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = weights.sum(axis=1)
    decided = decide(scores, threshold)

    of_class = decision_metrics(targets, decided, weights, num_classes)
    metrics = {
        "accuracy": weights @ (decided == targets) / total,
        "balanced_accuracy": _mean_of_defined(of_class["recall"]),
    }
    if names is None or not _RANKED.isdisjoint(names):
        ranked = ranking_metrics(targets, scores, weights, [1] if num_classes == 2 else range(num_classes))
        metrics |= {name: _mean_of_defined(values) for name, values in ranked.items()}
    metrics["f1_macro"] = _mean_of_defined(of_class["f1"])
    if ordinal or num_classes == 2:
        metrics["quadratic_kappa"] = _quadratic_kappa(targets, decided, weights, num_classes)
    if num_classes == 2:
        metrics |= {"sensitivity": of_class["recall"][:, 1], "specificity": of_class["recall"][:, 0]}
    surprise = -np.log(np.maximum(scores[np.arange(rows), targets], _LEAST_PROBABILITY))
    metrics["nll"] = weights @ surprise / total
    metrics["ece"] = _calibration_gaps(targets, scores, weights) / total
    if names is None:
        return metrics
    if not metrics.keys() >= set(names):
        raise ConfigError(f"metrics: expected names among {sorted({*metrics, *_RANKED})}, got {list(names)}")
    return {name: metrics[name] for name in names}


def point_metrics(predictions: Predictions, ordinal: bool, threshold: float | None = None) -> dict[str, float]:
    """The metrics of ``evaluate`` on the examples as they are; NaN where undefined."""
    metrics = evaluate(predictions.targets, predictions.scores, None, ordinal, threshold)
    return {name: float(values[0]) for name, values in metrics.items()}


def decision_metrics(
    targets: NDArray[np.int64], decided: NDArray[np.int64], weights: Floats, num_classes: int
) -> dict[str, Floats]:
    """Precision, recall, specificity and F1 of each class against the rest: [R, K_t] each."""
    true, claim = np.eye(num_classes)[targets], np.eye(num_classes)[decided]
    support, claimed, hits = weights @ true, weights @ claim, weights @ (true * claim)
    return {
        "precision": _ratio(hits, claimed),
        "recall": _ratio(hits, support),
        "specificity": _ratio(weights @ ((1 - true) * (1 - claim)), weights @ (1 - true)),
        "f1": _ratio(2 * hits, support + claimed),
    }


def ranking_metrics(
    targets: NDArray[np.int64], scores: Floats, weights: Floats, labels: Iterable[int]
) -> dict[str, Floats]:
    """``auroc`` and ``auprc`` of these classes, each against the rest: [R, number of labels] both."""
    by_row = np.ascontiguousarray(weights.T)
    auroc, auprc = zip(*(_ranking(targets == label, scores[:, label], by_row) for label in labels), strict=True)
    return {"auroc": np.stack(auroc, axis=1), "auprc": np.stack(auprc, axis=1)}


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    quotient = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the classes that are not NaN: [R, K] -> [R]."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1, dtype=np.float64))


def _ranking(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision; examples of equal score are retrieved together.

    Both are sums over the distinct scores of positive examples alone: of the negatives that outrank them (and half of
    those that tie), and of the precision when they are retrieved. Few places need a sum, however many examples there
    are: below, at, or between those scores.

    Shapes:
        positive: [N], scores: [N], weights: [N, R] -> [R] and [R].
    """
    levels = np.unique(scores[positive])
    num_places = 2 * len(levels) + 1  # the odd ones are the levels
    place = np.searchsorted(levels, scores, "left") + np.searchsorted(levels, scores, "right") + num_places * positive
    columns = (np.ones(len(place)), place, np.arange(len(place) + 1))
    summed = csc_array(columns, shape=(2 * num_places, len(place))) @ weights
    negatives, positives = summed[:num_places], summed[num_places:][1::2]
    num_negative, num_positive = negatives.sum(axis=0), positives.sum(axis=0)
    false, found = (counts[::-1].cumsum(axis=0)[::-1] for counts in (negatives, positives))  # at least as high

    higher_negatives = (false - negatives / 2)[1::2]
    inversions = _ratio((positives * higher_negatives).sum(axis=0), num_positive * num_negative)
    retrieved = false[1::2] + found
    precision = found / np.where(retrieved > 0, retrieved, 1.0)
    average_precision = _ratio((positives * precision).sum(axis=0), num_positive)
    return 1 - inversions, np.where(num_negative > 0, average_precision, np.nan)


def _quadratic_kappa(
    targets: NDArray[np.int64], decided: NDArray[np.int64], weights: Floats, num_classes: int
) -> Floats:
    """Agreement beyond chance, disagreements weighted by their squared distance: [R].

    Squared weights need no confusion matrix: the expected disagreement of independent raters is
    E(t - d)^2 = Var t + Var d + (E t - E d)^2.
    """
    total = weights.sum(axis=1)
    observed = weights @ np.square(targets - decided, dtype=np.float64) / total
    # Centred on the middle class, so that the variances lose no digits.
    truth, claim = targets - (num_classes - 1) / 2, decided - (num_classes - 1) / 2
    mean_truth, mean_claim = weights @ truth / total, weights @ claim / total
    expected = weights @ (truth**2 + claim**2) / total - 2 * mean_truth * mean_claim
    expected = np.where(expected > 1e-12, expected, 0.0)  # one class only, up to rounding
    return 1 - _ratio(observed, expected)


def _calibration_gaps(targets: NDArray[np.int64], scores: Floats, weights: Floats) -> Floats:
    """Summed weight times |accuracy - confidence| over the bins ((b - 1) / 15, b / 15]: [R]."""
    confidence = scores.max(axis=1)
    edges = np.linspace(0, 1, _NUM_BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidence, side="left")
    surplus = (scores.argmax(axis=1) == targets) - confidence
    gaps: Floats = np.abs(weights @ (np.eye(_NUM_BINS)[bins] * surplus[:, None])).sum(axis=1)
    return gaps
