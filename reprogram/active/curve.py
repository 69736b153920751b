"""The learning curve: what each round's labels were worth."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reprogram.active.round_files import write_rows
from reprogram.evaluation.verdict import metric_title

METRICS = ("accuracy", "balanced_accuracy", "auroc")
_STYLE = mpl.rc_context({"text.parse_math": False, "font.size": 10})
_COLOURS = {"test": "#2a6f97", "val": "#7a7a7a"}
_SECOND = "#e09f3e"


def write_curve(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes one row for each round, with the metrics of both splits and their intervals; empty where unknown."""
    columns = [f"{split}_{name}{end}" for split in ("val", "test") for name in METRICS for end in ("", "_low", "_high")]
    facts = ("round", "labels", "fraction", "confidence", "queries")
    rows = []
    for record in records:
        passed_on = record["propagated"]
        values = [
            (record[split] or {}).get(name, {}).get(key)
            for split in ("val", "test")
            for name in METRICS
            for key in ("value", "low", "high")
        ]
        rows.append([*(record[key] for key in facts), passed_on["count"], passed_on["accuracy"], *values])
    write_rows(path, (*facts, "propagated", "propagated_accuracy", *columns), rows)


def lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The curve for the terminal."""
    if records:
        heads = ("round", "labels", "accuracy (val)", "accuracy (test)", "confidence", "propagated", "right")
        yield "".join(f"{head:>{width}}" for head, width in zip(heads, (5, 8, 16, 17, 12, 12, 7), strict=True))
    for record in records:
        passed_on = record["propagated"]
        yield (
            f"{record['round']:>5}{record['labels']:>8}{_brief(record['val'], 16)}{_brief(record['test'], 17)}"
            f"{_number(record['confidence'], 12)}{passed_on['count']:>12}{_number(passed_on['accuracy'], 7)}"
        )


def _brief(metrics: Mapping[str, Any] | None, width: int) -> str:
    return _number(None if metrics is None else metrics["accuracy"]["value"], width)


def _number(value: float | None, width: int) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>{width}}"


@_STYLE
def draw_curve(path: Path, records: Sequence[Mapping[str, Any]], metric: str, title: str) -> None:
    """Draws a metric against the labels, with 95 % bands, and the share of propagated labels that is right.

    Args:
        path: PNG file to write.
        records: One for each round.
        metric: Of those that runs record.
        title: Above the picture.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for split, name in (("val", "validation"), ("test", "test")):
        points = [(record["labels"], record[split][metric]) for record in records if record[split]]
        points = [(labels, found) for labels, found in points if found["value"] is not None]
        if not points:
            continue
        labels = [count for count, _ in points]
        axes.plot(labels, [found["value"] for _, found in points], "o-", color=_COLOURS[split], label=name, ms=4)
        bands = [(count, found["low"], found["high"]) for count, found in points if found["low"] is not None]
        if bands:
            where, low, high = zip(*bands, strict=True)
            axes.fill_between(where, low, high, color=_COLOURS[split], alpha=0.15, linewidth=0)
    right = [(one["labels"], one["propagated"]["accuracy"]) for one in records]
    right = [(labels, share) for labels, share in right if share is not None]
    if right:
        axes.plot(*zip(*right, strict=True), "s--", color=_SECOND, label="propagated labels that are right", ms=4)
    axes.set(xlabel="labels", ylabel=metric_title(metric), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
