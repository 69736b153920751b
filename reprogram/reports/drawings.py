"""Curves as small SVG pictures, and pictures small enough to live inside a page."""

import base64
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from reprogram.evaluation.predictions import Predictions

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

_BINS = 15
_GRID = np.linspace(0, 1, 201)  # where curves of several classes are averaged
_STYLES = (("#b8321a", "-"), ("#1f5f99", "--"), ("#4d4d4d", ":"))  # told apart in black and white too
_QUALITIES = ((1000, 75), (560, 75), (440, 70), (300, 50))  # longest side in pixels and quality of an embedded picture
_MOST_BYTES = 40_000  # noise of a program takes more, unless it is made smaller
_SVG = mpl.rc_context(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "",  # the same curves give the same page
        "path.simplify_threshold": 0.5,
        "text.parse_math": False,
        "font.size": 9,
    }
)


def draw_curves(models: Mapping[str, Predictions]) -> dict[str, str]:
    """ROC, precision-recall and reliability of a few classifiers, each as the address of an SVG picture.

    Args:
        models: Predictions of the same rows by name, the most important first; at most three.

    Returns:
        Picture by title; a curve that one of them lacks, because the split holds one class only, is left out.
    """
    drawn = {}
    for title, curve, labels, diagonal in (
        ("ROC", roc, ("1 - specificity", "sensitivity"), True),
        ("Precision and recall", precision_recall, ("recall", "precision"), False),
    ):
        found = {name: curve(predictions) for name, predictions in models.items()}
        if all(points is not None for points in found.values()):
            drawn[title] = _curves_picture(found, labels, diagonal)
    return {**drawn, "Reliability": _reliability_picture(models)}


def roc(predictions: Predictions) -> Curve | None:
    """False-positive and true-positive rate; over more than two classes the mean of one against the rest."""
    return _mean_curve(predictions, lambda positive, scores: roc_curve(positive, scores)[:2])


def precision_recall(predictions: Predictions) -> Curve | None:
    """Recall and precision; over more than two classes the mean of one against the rest."""

    def curve(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Curve:
        precision, recall, _ = precision_recall_curve(positive, scores)
        return recall[::-1], precision[::-1]

    return _mean_curve(predictions, curve)


def reliability(predictions: Predictions) -> tuple[Curve, NDArray[np.int64]]:
    """Mean confidence and accuracy of the bins that hold examples, and how many each of all 15 holds."""
    confidence = predictions.scores.max(axis=1)
    right = predictions.scores.argmax(axis=1) == predictions.targets
    bins = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], confidence, side="left")
    counts = np.bincount(bins, minlength=_BINS)
    sums = [np.bincount(bins, weights=values, minlength=_BINS) for values in (confidence, right)]
    mean_confidence, accuracy = (total[counts > 0] / counts[counts > 0] for total in sums)
    return (mean_confidence, accuracy), counts


def embedded(path: Path) -> str | None:
    """A picture file, made small, as an address that holds it; ``None`` where there is none that can be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return None
    buffer = io.BytesIO()
    for side, quality in _QUALITIES:
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= _MOST_BYTES:
            break
    return _address("image/webp", buffer.getvalue())


def _mean_curve(
    predictions: Predictions, curve: Callable[[NDArray[np.bool_], NDArray[np.float64]], Curve]
) -> Curve | None:
    """The curve of class 1 of two, or the mean over the classes that the rows hold."""
    labels = [1] if predictions.num_classes == 2 else range(predictions.num_classes)
    positives = {label: predictions.targets == label for label in labels}
    found = [
        curve(positive, predictions.scores[:, label])
        for label, positive in positives.items()
        if 0 < positive.sum() < len(positive)
    ]
    if len(found) == 1:
        return found[0]
    return (_GRID, np.mean([np.interp(_GRID, *points) for points in found], axis=0)) if found else None


@_SVG
def _curves_picture(curves: Mapping[str, Curve | None], labels: tuple[str, str], diagonal: bool) -> str:
    figure = Figure(figsize=(3.3, 3.3), layout="constrained")
    axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for (name, points), (colour, line) in zip(curves.items(), _STYLES, strict=False):
        assert points is not None
        axes.plot(*points, color=colour, linestyle=line, linewidth=1.5, label=name)
    _square(axes, labels)
    return _svg(figure, axes)


@_SVG
def _reliability_picture(models: Mapping[str, Predictions]) -> str:
    figure = Figure(figsize=(3.3, 3.3), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    found = {name: reliability(predictions) for name, predictions in models.items()}
    for (name, (points, _)), (colour, line) in zip(found.items(), _STYLES, strict=False):
        axes.plot(*points, color=colour, linestyle=line, linewidth=1.5, marker="o", markersize=3, label=name)
    _square(axes, ("", "accuracy"))
    _, counts = next(iter(found.values()))  # those of the most important one
    below.bar((np.arange(_BINS) + 0.5) / _BINS, counts, width=0.9 / _BINS, color=_STYLES[0][0], alpha=0.6)
    below.set(xlabel="confidence", ylabel="examples")
    return _svg(figure, axes)


def _square(axes: Axes, labels: tuple[str, str]) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.25, linewidth=0.5)


def _svg(figure: Figure, axes: Axes) -> str:
    axes.legend(fontsize=7.5, loc="best", frameon=True, framealpha=0.85)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _address("image/svg+xml", re.sub(rb"\s+", b" ", buffer.getvalue()))


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
