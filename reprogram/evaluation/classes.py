"""What is decided for each class: the confusion matrix, and the metrics of one class against the rest."""

from collections.abc import Sequence

import numpy as np

from reprogram.errors import ShapeError
from reprogram.evaluation.intervals import Interval, bootstrap
from reprogram.evaluation.metrics import Floats, decision_metrics, ranking_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.threshold import decide


def confusion(predictions: Predictions, threshold: float | None) -> list[list[int]]:
    """How often each true class (row) was decided to be each class (column).

    Args:
        predictions: Of one split.
        threshold: Decides two classes by the score of class 1; ``None`` decides for the most probable class.
    """
    num_classes = predictions.num_classes
    cells = predictions.targets * num_classes + decide(predictions.scores, threshold)
    counts: list[list[int]] = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).tolist()
    return counts


def per_class(
    predictions: Predictions, num_resamples: int, seed: int, threshold: float | None, class_names: Sequence[str]
) -> dict[str, dict[str, int | Interval]]:
    """Each class against the rest: precision, recall, specificity and F1 of the decision, AUROC and AUPRC of the score.

    Args:
        predictions: Of one split.
        num_resamples: Of the bootstrap, see ``with_intervals``.
        seed: Seed of the resamples.
        threshold: Decides two classes by the score of class 1; ``None`` decides for the most probable class.
        class_names: K_t names.

    Returns:
        By class: ``support``, the number of examples, and each metric with its interval.

    Raises:
        ShapeError: If there are not as many names as classes.
    """
    labels = range(predictions.num_classes)
    if len(class_names) != len(labels):
        raise ShapeError(f"per_class: expected {len(labels)} class names, one per score, got {list(class_names)}")
    targets, scores, decided = predictions.targets, predictions.scores, decide(predictions.scores, threshold)

    def metrics(weights: Floats) -> dict[tuple[int, str], Floats]:
        found = decision_metrics(targets, decided, weights, len(labels))
        found |= ranking_metrics(targets, scores, weights, labels)
        return {(label, name): values[:, label] for label in labels for name, values in found.items()}

    support = np.bincount(targets, minlength=len(labels)).tolist()
    table: dict[str, dict[str, int | Interval]] = {
        name: {"support": count} for name, count in zip(class_names, support, strict=True)
    }
    for (label, metric), interval in bootstrap(predictions, metrics, num_resamples, seed).items():
        table[class_names[label]][metric] = interval
    return table
