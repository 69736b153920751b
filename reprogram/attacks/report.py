"""The curve of an attack: accuracy at each level with intervals, as a file and for the terminal."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text

from reprogram.attacks.campaign import Outcome
from reprogram.attacks.victim import Victim
from reprogram.data.base import Examples
from reprogram.evaluation.intervals import bootstrap
from reprogram.evaluation.metrics import Floats, evaluate
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.report import terminal, with_interval
from reprogram.evaluation.verdict import metric_title

METRICS = ("accuracy", "balanced_accuracy")
LIMITS = ("value", "low", "high")

Row = dict[str, Any]


def curve(
    outcome: Outcome, victim: Victim, labels: torch.Tensor, examples: Examples, num_resamples: int, seed: int
) -> list[Row]:
    """The level and the metrics of each level, ready for JSON; whole groups are resampled where there are groups."""
    rows = []
    for level, scores in zip(outcome.levels, outcome.scores, strict=True):
        decided = np.eye(scores.shape[1])[victim.decide(scores).numpy()]
        found = Predictions("attacked", examples.ids, labels.numpy(), decided, examples.groups)

        def metrics(weights: Floats, found: Predictions = found) -> dict[str, Floats]:
            return evaluate(found.targets, found.scores, weights, ordinal=False, names=METRICS)

        rows.append({outcome.measure: level, **bootstrap(found, metrics, num_resamples, seed)})
    return rows


def write_curve(path: Path, measure: str, rows: Sequence[Row]) -> None:
    """One line for each level."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([measure, *(f"{name}_{limit}" for name in METRICS for limit in LIMITS)])
        for row in rows:
            writer.writerow([row[measure], *(row[name][limit] for name in METRICS for limit in LIMITS)])


def print_outcome(record: Mapping[str, Any]) -> None:
    """Prints the curve, what was asked, and where the records are."""
    console, measure = terminal(), record["measure"]
    against = record["task"] if record["target"] == "classifier" else record["source"]
    title = f"{record['attack']['name']} against {against}, {record['split']} split [95 % interval]"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for name in (measure, *map(metric_title, METRICS)):
        table.add_column(name, justify="right")
    for row in record["curve"]:
        level = f"{row[measure]:,.0f}" if measure == "queries" else f"{row[measure]:.3g}"
        table.add_row(level, *(with_interval(row[name]) for name in METRICS))
    console.print(table)
    most = f" at {record['curve'][-1][measure]:.3g}" if measure == "strength" else ""
    console.print(
        f"{record['fooled']} of {record['attacked']} images fooled{most} that were right before, of "
        f"{record['examples']}"
    )
    if record["queries"] is not None:
        queries, median = record["queries"], record["median_queries"]
        text = f"{queries['total']:,} queries" + ("" if queries["cost"] is None else f", cost {queries['cost']:,.2f}")
        console.print(text + ("" if median is None else f"; median of the fooled {median:,.0f}"))
    console.print(Text(f"records  {record['output']}"), soft_wrap=True)
