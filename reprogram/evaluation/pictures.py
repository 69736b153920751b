"""Pictures of a run, made for looking at. Figures are drawn without pyplot, so no global state is touched."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.threshold import decide

_DPI = 120
_RIGHT, _WRONG, _NEUTRAL = "#1a7f37", "#c62828", "#555555"
_MOST_COUNTED_CLASSES = 30  # more cells than that leave no room for numbers
_LOSSES = ("loss", "nll")
_no_math = mpl.rc_context({"text.parse_math": False})  # a class may be called "$x" and is not LaTeX


@_no_math
def draw_program(
    path: Path, program: NDArray[np.floating], placement_box: tuple[int, int, int, int] | None, title: str
) -> None:
    """Draws the learned program, with the place of the target image outlined.

    Args:
        path: PNG file to write.
        program: The canvas around a blank target image, values in [0, 1].
        placement_box: Top, left, height and width (pixels) of the target image; ``None``: it covers the canvas.
        title: Heading.

    Shapes:
        program: [3, H, W].
    """
    height, width = program.shape[1:]
    figure = _figure(5, 0.7 + 4.6 * height / width, title)
    axes = figure.subplots()
    _show_image(axes, program)
    caption = f"{width} x {height} pixels"
    if placement_box is not None:
        top, left, box_height, box_width = placement_box
        corner = (left - 0.5, top - 0.5)
        for colour, style in (("white", "-"), ("black", "--")):  # visible on any program
            axes.add_patch(Rectangle(corner, box_width, box_height, fill=False, color=colour, ls=style, lw=1.5))
        caption += f"; dashed: the target image, {box_width} x {box_height}"
    axes.set_xlabel(caption, fontsize=9, color=_NEUTRAL)
    figure.savefig(path)


@_no_math
def draw_examples(
    path: Path,
    canvases: NDArray[np.floating],
    targets: Sequence[str],
    predicted: Sequence[str],
    source_classes: Sequence[str],
    source_probabilities: Sequence[float],
    mapped: Sequence[str] | None,
    title: str,
) -> None:
    """Draws what the frozen model was shown, what it saw in it, and what that was taken for.

    Args:
        path: PNG file to write.
        canvases: Composed examples, values in [0, 1].
        targets: True target class of each.
        predicted: Decided target class of each.
        source_classes: The source class the frozen model found most probable.
        source_probabilities: Its probability.
        mapped: The target class that this source class maps to; ``None`` when the mapping has no such thing.
        title: Heading.

    Shapes:
        canvases: [n, 3, H, W]; everything else has n entries.
    """
    columns = min(len(canvases), 4)
    rows = math.ceil(len(canvases) / columns)
    height, width = canvases.shape[2:]
    figure = _figure(2.6 * max(columns, 2), 0.6 + rows * (2.4 * height / width + 0.95), title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(canvases) :]:
        axes.set_axis_off()
    entries = zip(grid.flat, canvases, targets, predicted, source_classes, source_probabilities, strict=False)
    for row, (axes, canvas, target, decided, source, probability) in enumerate(entries):
        right = decided == target
        colour = _RIGHT if right else _WRONG
        _show_image(axes, canvas)
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2)
        verdict = f"target: {_short(target, 20)}\ndecided: {_short(decided, 20)} {'✓' if right else '✗'}"
        axes.set_title(verdict, fontsize=9, color=colour, fontweight="bold", linespacing=1.3)
        seen = f"sees {_short(source, 23)} {probability:.2f}"
        if mapped is not None:
            seen += f"\n→ {_short(mapped[row], 28)}"
        axes.set_xlabel(seen, fontsize=8, color=_NEUTRAL, linespacing=1.3)
    figure.savefig(path)


@_no_math
def draw_curves(
    path: Path, history: Sequence[Mapping[str, float | None]], best: float | None, measure: str = "epoch"
) -> None:
    """Draws losses and metrics over the epochs, or over the queries.

    Args:
        path: PNG file to write.
        history: One entry per validation with ``measure`` and any of ``train/<name>``, ``val/<name>``; names in nats
            (``loss``, ``nll``) share one panel, all others the second. Missing, ``None`` and NaN values are skipped.
        best: Where the program was kept, in units of ``measure``; ``None``: unknown.
        measure: ``epoch`` (-1: before the first) or ``queries``.
    """
    keys = dict.fromkeys(key for entry in history for key in entry if key.startswith(("train/", "val/")))
    panels = {
        "Loss (nats)": [key for key in keys if key.split("/", 1)[1] in _LOSSES],
        "Metrics": [key for key in keys if key.split("/", 1)[1] not in _LOSSES],
    }
    figure = _figure(11, 4.2)
    for axes, (title, shown) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(key.split("/", 1)[1] for key in shown))}
        for key in shown:
            split, name = key.split("/", 1)
            points = np.array([(entry[measure], entry.get(key)) for entry in history], dtype=np.float64)
            points = points[~np.isnan(points[:, 1])]  # None has become NaN
            axes.plot(
                *points.T,
                label=f"{split} {name.replace('_', ' ')}",
                color=colours[name],
                linestyle="-" if split == "val" else "--",
                marker=("o" if split == "val" else "s") if len(points) <= 25 else None,
                markersize=5,
            )
        if best is not None:
            label = f"best epoch: {best:.0f}" if measure == "epoch" else f"best at {best:,.0f} {measure}"
            axes.axvline(best, color="black", linestyle=":", zorder=1, label=label)
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlabel(measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if len(axes.lines) > 5:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        elif axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path)


@_no_math
def draw_confusion(
    path: Path, predictions: Predictions, class_names: Sequence[str], title: str, threshold: float | None = None
) -> None:
    """Draws how often each target class was decided to be each class, coloured by the share of its row.

    Args:
        path: PNG file to write.
        predictions: Of one split.
        class_names: K_t names.
        title: Heading.
        threshold: Decides two classes by the score of class 1; ``None`` decides for the most probable class.
    """
    num_classes = len(class_names)
    decided = decide(predictions.scores, threshold)
    counts = np.bincount(predictions.targets * num_classes + decided, minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    labels = [_short(name, 28) for name in class_names]
    room = 0.08 * max(map(len, labels))  # inches that the longest label takes
    cells = max(2.8, 0.42 * min(num_classes, _MOST_COUNTED_CLASSES))
    upright = room > cells / num_classes
    figure = _figure(cells + room + 2.0, cells + (room if upright else 0.2) + 1.1, title)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if num_classes <= 12 else 7 if num_classes <= _MOST_COUNTED_CLASSES else 4
    axes.set_xticks(range(num_classes), labels, fontsize=max(size, 5), rotation=90 if upright else 0)
    axes.set_yticks(range(num_classes), labels, fontsize=max(size, 5))
    axes.set_xlabel("decided class")
    axes.set_ylabel("target class")
    if num_classes <= _MOST_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else "black" if count else "#bbbbbb"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the target class")
    figure.savefig(path)


def _figure(width: float, height: float, title: str | None = None) -> Figure:
    """A figure of this size (inches), taller by what a heading of several lines takes."""
    heading = textwrap.fill(title, max(20, int(9 * width))) if title else ""
    figure = Figure(figsize=(width, height + 0.2 * heading.count("\n")), dpi=_DPI, layout="constrained")
    if heading:
        figure.suptitle(heading, fontsize=11, fontweight="bold")
    return figure


def _show_image(axes: Axes, image: NDArray[np.floating]) -> None:
    """Shows [3, H, W] in [0, 1] pixel by pixel, without ticks."""
    axes.imshow(np.clip(image, 0, 1).transpose(1, 2, 0), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _short(text: str, length: int) -> str:
    """At most ``length`` characters, cut in the middle: long class names differ in their ends."""
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - 1 - tail].rstrip()}…{text[-tail:].lstrip()}"
