"""Pictures of an attack: its curve, and images before and after. Both stay in the folder they are written to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from reprogram.attacks.campaign import Outcome
from reprogram.attacks.victim import Victim

SHOWN = 4  # fooled images
BARS = 5  # classes
_STYLE = mpl.rc_context({"text.parse_math": False, "font.size": 9})
_BEFORE, _AFTER, _BAND = "#1f5f99", "#c62828", "#9ec3e6"
_NAMES = {"strength": "strength (largest change of a pixel, 0 to 1)", "queries": "queries for each image"}


@_STYLE
def draw_curve(
    path: Path, measure: str, levels: Sequence[float], accuracy: Sequence[Mapping[str, float | None]], title: str
) -> None:
    """Draws accuracy, with its interval as a band, against strength or queries.

    Args:
        path: PNG file to write.
        measure: ``strength`` or ``queries``.
        levels: L values of it, from 0 upwards.
        accuracy: ``value``, ``low`` and ``high`` at each.
        title: Heading.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", wrap=True)
    axes = figure.subplots()
    value, low, high = (np.array([row[key] for row in accuracy], dtype=np.float64) for key in ("value", "low", "high"))
    axes.fill_between(levels, low, high, color=_BAND, alpha=0.6, label="95 % interval", linewidth=0)
    axes.plot(levels, value, color=_BEFORE, marker="o", markersize=4, label="accuracy")
    if measure == "queries":
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.0f}")
    axes.set(xlabel=_NAMES[measure], ylabel="accuracy", ylim=(-0.02, 1.02), xlim=(0, levels[-1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


@_STYLE
def draw_attacked(path: Path, victim: Victim, images: Tensor, outcome: Outcome, title: str) -> bool:
    """Draws a few fooled images: original, attacked, difference, and scores before and after.

    Args:
        path: PNG file to write.
        victim: What was attacked.
        images: [N, C, h, w] as they were.
        outcome: What became of them.
        title: Heading.

    Returns:
        Whether there is a picture: not without a fooled image.
    """
    before, after = victim.decide(outcome.scores[0]), victim.decide(outcome.scores[-1])
    rows = [row for row, fooled in enumerate(outcome.fooled) if fooled][:SHOWN]
    if not rows:
        path.unlink(missing_ok=True)
        return False
    figure = Figure(figsize=(11, 0.7 + 2.3 * len(rows)), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", wrap=True)
    names = victim.spec.class_names
    widths = {"width_ratios": [1, 1, 1, 1.5]}
    for row, line in zip(rows, figure.subplots(len(rows), 4, squeeze=False, gridspec_kw=widths), strict=True):
        old, new = images[row], outcome.images[row]
        change = (new - old).abs().max().item()
        # the largest change becomes black or white; a service may answer the same image in two ways
        gain = 0.5 / change if change else 1.0
        _show(line[0], old, f"original: {_short(names[before[row]])}")
        _show(line[1], new, f"attacked: {_short(names[after[row]])}")
        _show(line[2], 0.5 + gain * (new - old), f"difference x {gain:,.3g} (most {change:.3g})")
        _bars(line[3], victim, outcome.scores[[0, -1], row], names)
    figure.savefig(path)
    return True


def _show(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def _bars(axes: Axes, victim: Victim, scores: Tensor, names: Sequence[str]) -> None:
    """Probabilities before and after, of the two decisions and the likeliest others: scores [2, K]."""
    found = victim.probabilities(scores)
    decided = dict.fromkeys(victim.decide(scores).tolist())
    likely = dict.fromkeys(found.amax(dim=0).argsort(descending=True).tolist())
    classes = list(decided | likely)[:BARS][::-1]  # from below
    places = np.arange(len(classes))
    for offset, colour, values in ((0.2, _BEFORE, found[0]), (-0.2, _AFTER, found[1])):
        axes.barh(places + offset, values[classes].numpy(), 0.38, color=colour)
    axes.set_yticks(places, [_short(names[index]) for index in classes])
    axes.set_xlim(0, 1)
    axes.set_title("scores before (blue) and after (red)", fontsize=9)


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else f"{name[: length - 1].rstrip()}…"
