"""One summary at the end of any sweep: a table, two pictures, and the line that makes the best run again."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from reprogram.evaluation.report import markdown_table, number, terminal, with_interval
from reprogram.evaluation.verdict import metric_title
from reprogram.sweeps.importance import importance
from reprogram.sweeps.pictures import draw_importance, draw_parallel
from reprogram.sweeps.rows import Row, brief, finished, front

MARKDOWN, CSV = "summary.md", "summary.csv"
PARALLEL, IMPORTANCE = "parallel.png", "importance.png"
MOST_LINES = 5  # of the front

_WIDE = 160  # of a file or pipe
_NUMERIC = ("val", "queries", "test [95 % interval]")


def summarise(rows: Sequence[Row], folder: Path, with_front: bool = False) -> None:
    """Prints the summary and writes it, with its pictures, into a folder.

    Args:
        rows: Jobs, in the order they are to be shown.
        folder: Gets ``summary.md``, ``summary.csv``, ``parallel.png`` and ``importance.png``.
        with_front: Whether queries count too: then the best runs are those that none beats in both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header, cells = _cells(rows, folder)
    lines = conclusion(rows, with_front)
    shown = Table(title=_title(rows), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in header:
        numeric = name in _NUMERIC
        shown.add_column(Text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in cells:
        shown.add_row(*map(Text, row))
    terminal(_WIDE).print(shown)
    pictures = _draw(rows, folder, with_front)
    numbers = [column for column, name in enumerate(header) if name in _NUMERIC]
    text = f"{_title(rows)}\n\n{markdown_table(header, cells, numbers)}\n"
    text += "".join(f"    {line}\n" if line.startswith("reprogram-") else f"\n{line}\n\n" for line in lines)
    text += "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures)
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    _write_csv(rows, folder / CSV)
    for line in (*lines, f"summary  {folder / MARKDOWN}, {CSV}", *(f"picture  {path}" for path in pictures)):
        terminal().print(Text(line), soft_wrap=True)


def conclusion(rows: Sequence[Row], with_front: bool) -> list[str]:
    """What to run again, and what failed."""
    lines = []
    best = front(rows) if with_front else finished(rows)[:1]
    if with_front and best:
        lines.append(f"{len(best)} runs that none beats in {metric_title(best[0].metric)} without more queries:")
        for row in best[:MOST_LINES]:
            lines += [f"{number(row.score, 4)} for {row.queries:,} queries:", row.line]
    elif best:
        reached = f"{metric_title(best[0].metric)} {number(best[0].score, 4)}"
        lines += [f"best     {reached} on validation: {best[0].run_dir}", best[0].line]
    lines += [f"failed   job {row.job}: {row.note}" for row in rows if row.state == "failed"]
    return lines


def _title(rows: Sequence[Row]) -> str:
    counts = {state: sum(row.state == state for row in rows) for state in ("ended early", "failed", "not done")}
    metrics = " or ".join(dict.fromkeys(metric_title(row.metric) for row in rows))
    others = [f"{count} {state}" for state, count in counts.items() if count]
    return ", ".join([f"{len(rows)} runs by {metrics}", *others])


def _cells(rows: Sequence[Row], folder: Path) -> tuple[list[str], list[list[str]]]:
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    short = [key.rpartition(".")[2] for key in keys]
    asked = any(row.queries is not None for row in rows)
    header = ["job", *(name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)), "val"]
    header += [*(["queries"] if asked else []), "test [95 % interval]", "run"]
    cells = []
    for row in rows:
        place = Path(row.run_dir)
        run = place.name if place.parent.absolute() == folder.absolute() else row.run_dir
        cells.append(
            [
                str(row.job),
                *(brief(row.values[key]) if key in row.values else "" for key in keys),
                number(row.score, 3),
                *([("n/a" if row.queries is None else f"{row.queries:,}")] if asked else []),
                with_interval(row.test),
                run if row.state == "finished" else f"{row.state}: {row.note or run}",
            ]
        )
    return header, cells


def _draw(rows: Sequence[Row], folder: Path, with_front: bool) -> list[Path]:
    """The pictures that there is something to show in."""
    found = []
    if draw_parallel(folder / PARALLEL, rows, with_front):
        found.append(folder / PARALLEL)
    weights = {"score": importance(rows, "score")} | ({"queries": importance(rows, "queries")} if with_front else {})
    weights = {name: values for name, values in weights.items() if values}
    if weights:
        draw_importance(folder / IMPORTANCE, weights)
        found.append(folder / IMPORTANCE)
    return found


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    fixed = ("job", "state", "metric", "val", "test", "test_low", "test_high", "queries", "seconds", "run_dir", "note")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*fixed[:2], *keys, *fixed[2:]])
        for row in rows:
            test = row.test or {}
            table.writerow(
                [
                    *(row.job, row.state, *(row.values.get(key) for key in keys), row.metric, row.score),
                    *(test.get(name) for name in ("value", "low", "high")),
                    *(row.queries, row.seconds, row.run_dir, row.note),
                ]
            )
