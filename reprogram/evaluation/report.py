"""Tables of results, for the terminal and for a sweep's Markdown file."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reprogram.evaluation.intervals import Interval

_WIDTH = 100  # of a file or pipe; a terminal has its own, and if narrower gets fewer columns
_ABBREVIATIONS = {"auroc": "AUROC", "auprc": "AUPRC", "f1_macro": "macro F1", "nll": "NLL", "ece": "ECE"}
_COLUMNS = ("quadratic_kappa", "accuracy", "balanced_accuracy", "auroc")
_BINARY_COLUMNS = ("accuracy", "balanced_accuracy", "auroc", "auprc")
_SWEEP_HEADER = ("overrides", "metric", "val", "test [95 % interval]", "run")


class SweepRow(TypedDict):
    """One job of a multirun.

    Args:
        overrides: What distinguishes the job, such as ``seed=1 program.size=32``.
        metric: Name of the metric that chose the epoch.
        val: Its value on validation; ``None`` when the job failed.
        test: Its value on test; ``None`` when the job failed.
        run_dir: Where the run is.
    """

    overrides: str
    metric: str
    val: Interval | None
    test: Interval | None
    run_dir: str


def results_table(metrics: Mapping[str, Any], columns: Sequence[str]) -> Table:
    """The reprogrammed classifier above its baselines, on the test split.

    Args:
        metrics: Contents of ``metrics.json``.
        columns: Names of the metrics to show; one that a row lacks, or that is undefined there, shows as ``n/a``.
    """
    title = f"{metrics['task']} on {metrics['source']}, seed {metrics['seed']}: test split [95 % interval]"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in columns:
        table.add_column(_title(name), justify="right")
    rows = [("reprogrammed", metrics["test"])]
    rows += [(_title(name), splits["test"]) for name, splits in metrics["baselines"].items()]
    for position, (name, scores) in enumerate(rows):
        cells = [name, *(_with_interval(scores.get(column)) for column in columns)]
        table.add_row(*map(Text, cells), style="bold" if position == 0 else None)
    return table


def print_results(metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    """Prints the table of a run with the metrics that fit its task, then the paths of its pictures.

    Args:
        metrics: Contents of ``metrics.json``.
        pictures: Files to point to, one line each, never broken.
    """
    wanted = _BINARY_COLUMNS if "sensitivity" in metrics["test"] else _COLUMNS
    columns = [name for name in wanted if name in metrics["test"]]
    console = _console()
    console.print(results_table(metrics, columns if console.width >= _WIDTH else columns[:3]))
    gain = (metrics.get("over_mapping_only") or {}).get("balanced_accuracy")
    if gain is not None and gain["value"] is not None:
        spread = "" if gain["low"] is None else f" [{gain['low']:+.3f}, {gain['high']:+.3f}], p = {gain['p_value']:.3f}"
        console.print(f"The program over the mapping alone: balanced accuracy {gain['value']:+.3f}{spread}")
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
        table.add_row(_title(name), _with_interval(score))
    _console().print(table)


def sweep_table(rows: Sequence[SweepRow]) -> Table:
    """One line per job, in the order given."""
    table = Table(title=f"{len(rows)} runs", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in _SWEEP_HEADER:
        numeric = name.startswith(("val", "test"))
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, _sweep_cells(row)))
    return table


def print_sweep(rows: Sequence[SweepRow]) -> None:
    """Prints the table of a sweep."""
    _console().print(sweep_table(rows))


def sweep_markdown(rows: Sequence[SweepRow]) -> str:
    """The table of a sweep as Markdown text."""
    escaped = [[cell.replace("|", r"\|") for cell in _sweep_cells(row)] for row in rows]
    lines = [_SWEEP_HEADER, ("---", "---", "---:", "---:", "---"), *escaped]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _sweep_cells(row: SweepRow) -> tuple[str, ...]:
    val = _number(row["val"]["value"] if row["val"] else None, 3)
    return row["overrides"], _title(row["metric"]), val, _with_interval(row["test"]), row["run_dir"]


def _with_interval(score: Interval | None) -> str:
    """Such as ``0.912 [0.87, 0.95]``."""
    if score is None or score["value"] is None:
        return "n/a"
    return f"{_number(score['value'], 3)} [{_number(score['low'], 2)}, {_number(score['high'], 2)}]"


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _title(name: str) -> str:
    return _ABBREVIATIONS.get(name, name.replace("_", " "))


def _console() -> Console:
    """Rich would take a pipe to be 80 columns wide."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
