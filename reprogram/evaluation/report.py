"""Tables of results, for the terminal, and as Markdown text."""

import html
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reprogram.evaluation.baselines import missing
from reprogram.evaluation.intervals import Interval
from reprogram.evaluation.verdict import metric_title, verdict

_WIDTH = 100  # of a file or pipe; a terminal has its own, and if narrower gets fewer columns
_COLUMNS = ("quadratic_kappa", "accuracy", "balanced_accuracy", "auroc")
_BINARY_COLUMNS = ("accuracy", "balanced_accuracy", "auroc", "auprc")


def results_table(metrics: Mapping[str, Any], columns: Sequence[str], success: bool) -> Table:
    """The reprogrammed classifier above its baselines, on the test split.

    Args:
        metrics: Contents of ``metrics.json``.
        columns: Names of the metrics to show; one that a row lacks, or that is undefined there, shows as ``n/a``.
        success: Whether to stress the reprogrammed classifier.
    """
    title = f"{metrics['task']} on {metrics['source']}, seed {metrics['seed']}: test split [95 % interval]"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in columns:
        table.add_column(metric_title(name), justify="right")
    rows = [("reprogrammed", metrics["test"])]
    rows += [(metric_title(name), splits["test"]) for name, splits in metrics["baselines"].items()]
    for position, (name, scores) in enumerate(rows):
        cells = [name, *(with_interval(scores.get(column)) for column in columns)]
        table.add_row(*map(Text, cells), style="bold" if success and position == 0 else None)
    return table


def print_results(metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    """Prints the table of a finished run, what may be claimed from it, and where its pictures are.

    Args:
        metrics: Contents of ``metrics.json``.
        pictures: Files.
    """
    wanted = _BINARY_COLUMNS if "sensitivity" in metrics["test"] else _COLUMNS
    columns = [name for name in wanted if name in metrics["test"]]
    baselines = {name: splits["test"] for name, splits in metrics["baselines"].items()}
    absent = [*missing(baselines, metrics["access"] == "black_box"), *metrics["left_out"]]
    judged = verdict(metrics["test"], baselines, metrics["over_baselines"], list(dict.fromkeys(absent)))
    console = terminal()
    console.print(results_table(metrics, columns if console.width >= _WIDTH else columns[:3], judged.success))
    console.print(Text(f"Verdict: {judged.text}"))
    at_threshold = metrics["test_at_threshold"] or {}
    if "sensitivity" in at_threshold:
        reached = ", ".join(f"{name} {with_interval(at_threshold[name])}" for name in ("sensitivity", "specificity"))
        console.print(Text(f"At threshold {metrics['threshold']:.3f} (chosen on validation): {reached}"))
    if pictures:
        console.print("Pictures:")
    for path in pictures:
        console.print(Text(f"  {path}"), soft_wrap=True)


def print_metrics(title: str, metrics: Mapping[str, Interval]) -> None:
    """Prints every metric of one split, one line each."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, score in metrics.items():
        table.add_row(metric_title(name), with_interval(score))
    terminal().print(table)


def print_comparison(
    headings: Mapping[str, str],
    examples: int,
    sides: Mapping[str, Mapping[str, Interval]],
    differences: Mapping[str, Interval],
) -> None:
    """Prints every metric of two runs, their difference and its p-value."""
    console = terminal()
    for name, heading in headings.items():
        console.print(Text(f"{name}  {heading}"), soft_wrap=True)
    title = f"{examples} test examples [95 % interval, paired bootstrap]"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", *sides, " - ".join(sides), "p"):
        table.add_column(name, justify="right" if name else "left")
    for metric, difference in differences.items():
        values = [with_interval(scores[metric]) for scores in sides.values()]
        p_value = number(difference["p_value"], 3)
        table.add_row(metric_title(metric), *map(Text, (*values, with_interval(difference, sign="+"), p_value)))
    console.print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Container[int]) -> str:
    """A table as Markdown text.

    Args:
        header: Name of each column.
        rows: Plain text, whatever it holds.
        numeric: Columns that are set to the right.
    """
    ruler = ["---:" if column in numeric else "---" for column in range(len(header))]
    clean = [[html.escape(cell, quote=False).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ruler, *clean))


def with_interval(score: Interval | None, sign: str = "") -> str:
    """Such as ``0.912 [0.87, 0.95]``; ``sign="+"`` also shows a plus."""
    if score is None or score["value"] is None:
        return "n/a"
    return f"{number(score['value'], 3, sign)} [{number(score['low'], 2, sign)}, {number(score['high'], 2, sign)}]"


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A rounded number, never ``-0.0``; ``n/a`` for none."""
    return "n/a" if value is None else f"{value:{sign}z.{digits}f}"


def terminal(width: int = _WIDTH) -> Console:
    """Where results are printed; Rich would take a pipe to be 80 columns wide."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)
