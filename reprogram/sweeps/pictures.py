"""The pictures of a sweep: each run as a line through what it chose, and what its choices were worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from reprogram.evaluation.verdict import metric_title
from reprogram.sweeps.importance import is_logarithmic, is_numeric
from reprogram.sweeps.rows import Row, brief, finished, front

_STYLE = mpl.rc_context({"text.parse_math": False, "font.size": 10})
_COLOURS = "viridis"
_QUIET, _BEST = "#c8c8c8", "#c2331c"
_MOST_TICKS = 8  # values with a tick of their own
_BARS = {"score": "#2a6f97", "queries": "#e09f3e"}


@_STYLE
def draw_parallel(path: Path, rows: Sequence[Row], with_front: bool) -> bool:
    """Draws a line for each run; ``False`` where fewer than two runs, or no two choices, can be compared.

    Args:
        path: PNG file to write.
        rows: Jobs; those without a score are left out, those ended early are grey.
        with_front: Whether queries get an axis, and the whole front is stressed instead of the best run.
    """
    shown = [row for row in rows if row.score is not None and row.state in ("finished", "ended early")]
    keys = list(dict.fromkeys(key for row in shown for key in row.values))
    keys = [key for key in keys if len({repr(row.values.get(key)) for row in shown}) > 1]
    done = finished(shown)
    if len(done) < 2 or not keys:
        return False
    columns: dict[str, list[Any]] = {key: [row.values.get(key) for row in shown] for key in keys}
    if with_front:
        columns["queries"] = [row.queries for row in shown]
    title = metric_title(shown[0].metric)
    columns[f"{title}\n(validation)"] = [row.score for row in shown]
    figure = Figure(figsize=(max(6.5, 1.9 * len(columns) + 1.5), 4.8), dpi=130, layout="constrained")
    axes = figure.subplots()
    worth = np.array([row.score for row in shown], dtype=float)
    worth = (worth - worth.min()) / ((worth.max() - worth.min()) or 1.0)
    heights = np.stack([_axis(axes, place, values, worth) for place, values in enumerate(columns.values())], axis=1)
    scores = [row.score for row in done if row.score is not None]
    colours = mpl.colormaps[_COLOURS if shown[0].mode == "max" else f"{_COLOURS}_r"]
    scale = Normalize(min(scores), max(scores))
    stressed = {row.job for row in (front(shown) if with_front else done[:1])}
    lines = list(zip(shown, heights, strict=True))
    for row, points in sorted(lines, key=lambda line: (line[0].state == "finished", line[0].job in stressed)):
        early, is_best = row.state == "ended early", row.job in stressed
        colour = _QUIET if early else _BEST if is_best else colours(scale(row.score or 0.0))
        width, style = (2.6, "-") if is_best else (1.0 if early else 1.3, ":" if early else "-")
        look: dict[str, Any] = {"edgecolor": colour, "linewidth": width, "linestyle": style}
        axes.add_patch(PathPatch(_through(points), facecolor="none", alpha=0.9, **look))
    axes.set(xlim=(-0.35, len(columns) - 0.65), ylim=(-0.06, 1.06), xticks=range(len(columns)), yticks=[])
    axes.set_xticklabels([name.replace(".", ".\n") if len(name) > 16 else name for name in columns])
    axes.tick_params(axis="x", length=0, pad=8)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(mpl.cm.ScalarMappable(scale, colours), ax=axes, pad=0.02, fraction=0.04, aspect=30)
    bar.set_label(title)
    parts = [f"{len(done)} runs", f"{len(shown) - len(done)} ended early (dotted)" if len(shown) > len(done) else ""]
    parts.append("best in red" if not with_front else "red: none is better without more queries")
    axes.set_title(", ".join(filter(None, parts)), loc="left", fontsize=10)
    figure.savefig(path)
    return True


@_STYLE
def draw_importance(path: Path, weights: Mapping[str, Mapping[str, float]]) -> None:
    """Draws a bar for each key.

    Args:
        path: PNG file to write.
        weights: Shares by key, for ``score`` and perhaps ``queries``.
    """
    keys = list(next(iter(weights.values())))
    figure = Figure(figsize=(6.8, 1.1 + (0.28 + 0.22 * len(weights)) * len(keys)), dpi=130, layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(weights)
    for turn, (name, shares) in enumerate(weights.items()):
        places = np.arange(len(keys)) + (turn - (len(weights) - 1) / 2) * height
        values = [shares.get(key, 0.0) for key in keys]
        bars = axes.barh(places, values, height * 0.92, color=_BARS[name], label=name)
        axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, fontsize=9)
    axes.set(yticks=range(len(keys)), yticklabels=keys, xlim=(0, 1.1), xlabel="share of the differences between runs")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("What the choices were worth", loc="left", fontsize=10)
    if len(weights) > 1:
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


def _axis(axes: Axes, place: int, values: Sequence[Any], worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws one vertical axis, with ticks, and returns the heights of the values on it, in [0, 1].

    Runs with the same choice, which is no number, lie side by side, the higher score above.
    """
    axes.plot([place, place], [0, 1], color="#404040", linewidth=1, zorder=3)
    known = [value for value in values if value is not None]
    if known and len(known) == len(values) and is_numeric(values):
        numbers = np.log(values) if is_logarithmic(values) else np.asarray(values, dtype=float)
        low, high = numbers.min(), numbers.max()
        span = (high - low) or 1.0
        heights = (numbers - low) / span if high > low else np.full(len(values), 0.5)
        ticks = _ticks(values)
        places = np.log(ticks) if is_logarithmic(values) else np.asarray(ticks, dtype=float)
        marks = {f"{tick:,g}": (at - low) / span if high > low else 0.5 for tick, at in zip(ticks, places, strict=True)}
    else:
        names = list(dict.fromkeys(map(brief, sorted(values, key=repr))))
        marks = {text: (index + 0.5) / len(names) for index, text in enumerate(names)}
        heights = np.array([marks[brief(value)] for value in values]) + (worth - 0.5) * 0.5 / len(names)
    for text, height in marks.items():
        axes.plot([place - 0.015, place + 0.015], [height, height], color="#404040", linewidth=1, zorder=3)
        axes.annotate(
            text, (place, height), (5, 0), textcoords="offset points", va="center", fontsize=8, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip
    return heights


def _ticks(values: Sequence[float]) -> list[float]:
    """The values themselves if they are few, else round numbers."""
    distinct = sorted(set(values))
    if len(distinct) <= _MOST_TICKS:
        return distinct
    locator = LogLocator(subs=(1, 2, 5)) if is_logarithmic(values) else MaxNLocator(6)
    return [tick for tick in locator.tick_values(distinct[0], distinct[-1]) if distinct[0] <= tick <= distinct[-1]]


def _through(heights: NDArray[np.float64]) -> Curve:
    """A smooth line: runs that meet at a value can be followed beyond it."""
    points, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for place in range(1, len(heights)):
        points += [(place - 0.6, heights[place - 1]), (place - 0.4, heights[place]), (float(place), heights[place])]
        codes += [Curve.CURVE4] * 3
    return Curve(points, codes)
