"""Classification metrics for many weightings of the same examples at once, as a bootstrap needs them.

Every function works on weights [R, N]: R resamples of N examples, an integer weight being how often an example was
drawn. What a weighting leaves undefined (no positive example, say) is NaN, never a guess.
"""

import numpy as np
from numpy.typing import NDArray

from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.threshold import decide

Floats = NDArray[np.float64]

_NUM_BINS = 15
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)  # a target given probability 0 costs 36 nats, not infinity


def evaluate(
    targets: NDArray[np.int64],
    scores: Floats,
    weights: Floats | None,
    ordinal: bool,
    threshold: float | None = None,
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

    Shapes:
        targets: [N], scores: [N, K_t], weights: [R, N] -> [R] for each metric.

    Reference:
        Calibration: On calibration of modern neural networks, Guo et al., ICML 2017, arXiv 1706.04599, Eq. 3.
        Kappa: Weighted kappa, J. Cohen, Psychological Bulletin 1968.
    """
    rows, num_classes = scores.shape
    weights = np.ones((1, rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = weights.sum(axis=1)
    decided = decide(scores, threshold)

    one_hot = np.eye(num_classes)
    support = weights @ one_hot[targets]
    claimed = weights @ one_hot[decided]
    hits = weights @ (one_hot[targets] * one_hot[decided])
    recall = _ratio(hits, support)
    positive_classes = [1] if num_classes == 2 else range(num_classes)
    rankings = [_ranking(targets == label, scores[:, label], weights) for label in positive_classes]

    metrics = {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": _mean_of_defined(recall),
        "auroc": _mean_of_defined(np.stack([auroc for auroc, _ in rankings], axis=1)),
        "auprc": _mean_of_defined(np.stack([auprc for _, auprc in rankings], axis=1)),
        "f1_macro": _mean_of_defined(_ratio(2 * hits, support + claimed)),
    }
    if ordinal or num_classes == 2:
        metrics["quadratic_kappa"] = _quadratic_kappa(targets, decided, weights, num_classes)
    if num_classes == 2:
        metrics |= {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
    surprise = -np.log(np.maximum(scores[np.arange(rows), targets], _LEAST_PROBABILITY))
    metrics["nll"] = weights @ surprise / total
    metrics["ece"] = _calibration_gaps(targets, scores, weights) / total
    return metrics


def point_metrics(predictions: Predictions, ordinal: bool, threshold: float | None = None) -> dict[str, float]:
    """The metrics of ``evaluate`` on the examples as they are; NaN where undefined."""
    metrics = evaluate(predictions.targets, predictions.scores, None, ordinal, threshold)
    return {name: float(values[0]) for name, values in metrics.items()}


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

    Both are sums over the positive examples only: of the negatives each outranks (and half of those it ties with),
    and of the precision when it is retrieved.

    Shapes:
        positive: [N], scores: [N], weights: [R, N] -> [R] and [R].
    """
    order = np.argsort(-scores, kind="stable")
    order_positive = order[positive[order]]
    keys, keys_positive = -scores[order], -scores[order_positive]
    weights_positive = weights[:, order_positive]
    before, through = _weight_retrieved(keys, weights[:, order], keys_positive)
    found_before, found_through = _weight_retrieved(keys_positive, weights_positive, keys_positive)
    num_positive, num_negative = weights_positive.sum(axis=1), weights[:, ~positive].sum(axis=1)

    higher_negatives = (before - found_before + through - found_through) / 2
    inversions = _ratio((weights_positive * higher_negatives).sum(axis=1), num_positive * num_negative)
    precision = found_through / np.where(through > 0, through, 1.0)
    average_precision = _ratio((weights_positive * precision).sum(axis=1), num_positive)
    return 1 - inversions, np.where(num_negative > 0, average_precision, np.nan)


def _weight_retrieved(keys: Floats, weights: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Weight of the sorted keys below each query, and of those below or equal: [N], [R, N], [Q] -> [R, Q] twice."""
    cumulative = np.zeros((len(weights), len(keys) + 1))
    np.cumsum(weights, axis=1, out=cumulative[:, 1:])
    below, through = (cumulative[:, np.searchsorted(keys, queries, side)] for side in ("left", "right"))
    return below, through


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
