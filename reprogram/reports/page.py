"""The report itself: one HTML page that needs nothing beside it, and one Markdown table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reprogram.errors import DataError, RunError
from reprogram.evaluation.classes import confusion
from reprogram.evaluation.report import markdown_table, number, with_interval
from reprogram.evaluation.verdict import MAIN, metric_title
from reprogram.reports.caveats import caveats, may_show_examples
from reprogram.reports.collect import OURS, Run, collect, without_folders
from reprogram.reports.drawings import draw_curves, embedded
from reprogram.reports.experiments import group
from reprogram.reports.summary import Summary, summarise

_METRICS = (
    "accuracy", "balanced_accuracy", "auroc", "auprc", "f1_macro", "quadratic_kappa", "sensitivity", "specificity",
    "ece", "nll",
)  # fmt: skip
_NOT_PURPOSES = ("total", "uncertain", "budget", "cost")


def report(patterns: str | Sequence[str], output: str | Path, num_resamples: int = 1000) -> list[str]:
    """Writes ``report.html`` and ``report.md``.

    Args:
        patterns: Run directories, see ``collect``.
        output: Folder for the two files.
        num_resamples: Of every bootstrap.

    Returns:
        What to tell the user: what was left out and why, and where the files are.

    Raises:
        ConfigError: If nothing matches.
        RunError: If no run can be read, or the folder cannot be written.
    """
    runs, skipped = collect(patterns)
    told = [f"skipped  {path}: {reason}" for path, reason in skipped.items()]
    summaries = []
    for experiment in group(runs):
        try:
            summaries.append(summarise(experiment, num_resamples))
        except DataError as error:
            skipped |= {run.path: str(error) for run in experiment.runs}
            told.append(f"skipped  {error}")
    if not summaries:
        raise RunError("\n".join(["none of the runs can be reported", *told]))
    files = {"report.html": page(summaries, skipped, num_resamples), "report.md": table(summaries)}
    paths = [write(Path(output) / name, text) for name, text in files.items()]
    return [*told, f"runs     {len(runs)}, experiments {len(summaries)}", *(f"report   {path}" for path in paths)]


def write(path: Path, text: str) -> Path:
    """Writes a file, and its folder where there is none.

    Raises:
        RunError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"output: cannot write {path}: {error.strerror}; choose another output") from error
    return path


def page(summaries: Sequence[Summary], skipped: Mapping[Path, str], num_resamples: int) -> str:
    """The page as text; whatever comes from a run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"title": metric_title, "number": number, "MAIN": MAIN, "OURS": OURS}
    return environment.get_template("page.html.j2").render(
        sections=[_section(summary) for summary in summaries],
        skipped={"/".join(path.parts[-2:]): without_folders(reason) for path, reason in skipped.items()},
        num_resamples=num_resamples,
        num_runs=sum(len(summary.experiment.runs) for summary in summaries),
    )


def table(summaries: Sequence[Summary]) -> str:
    """One row for each classifier of each experiment."""
    metrics = _present(summaries)
    rows = []
    for summary in summaries:
        for name in (OURS, *summary.baselines):
            found = summary.scores[name]
            scores = [with_interval(found[metric]) if metric in found else "" for metric in metrics]
            ends = [summary.verdicts[MAIN].text, _published(summary.record.get("paper"))] if name == OURS else ["", ""]
            rows.append([summary.experiment.heading, summary.repeats, metric_title(name), *scores, *ends])
    header = ["experiment", "runs", "classifier", *map(metric_title, metrics), "verdict", "published"]
    return markdown_table(header, rows, numeric=range(3, 3 + len(metrics)))


def _section(summary: Summary) -> dict[str, Any]:
    """All that the page shows of one experiment."""
    runs, first = summary.experiment.runs, summary.experiment.runs[0]
    shown = {OURS: summary.pooled.first}
    shown |= {metric_title(name): summary.pooled.classifiers[name][0] for name in summary.baselines[:2]}
    paper = first.record.get("paper")
    return {
        "summary": summary,
        "first": first,
        "metrics": _present([summary]),
        "caveats": caveats(summary),
        "paper": paper,
        "published": _published(paper),
        "measured": summary.ours.get(paper["metric"]) if paper else None,
        "curves": draw_curves(shown),
        "confusion": confusion(summary.pooled.first, None),
        "program": embedded(first.path / "program.png"),
        "examples": embedded(first.path / "examples.png") if may_show_examples(summary) else None,
        "label_map": _label_map(first.record["label_map"]),
        "subgroups": {name: values for name, values in summary.subgroups.items() if len(values) > 1},
        "points": _operating_points(runs),
        "queries": sum((Counter(_purposes(run)) for run in runs), Counter()),
        "cost": sum(run.record["queries"].get("cost") or 0 for run in runs),
        "seconds": {key: sum(run.record["timing"][key] for run in runs) for key in ("train_s", "evaluate_s")},
        "command": without_folders(first.record["environment"]["command"]),
    }


def _present(summaries: Sequence[Summary]) -> list[str]:
    return [metric for metric in _METRICS if any(metric in summary.ours for summary in summaries)]


def _published(paper: Mapping[str, Any] | None) -> str:
    """Such as ``accuracy 0.82 (BAR, Table 5; from memory)``."""
    if not paper:
        return ""
    origin = "; ".join(filter(None, (paper["table"], paper.get("note"))))
    return f"{metric_title(paper['metric'])} {paper['value']} ({origin})"


def _label_map(rows: Sequence[Sequence[Any]], top: int = 3) -> dict[str, list[tuple[str, float]]]:
    """The source classes of the largest weights, by target class."""
    found: dict[str, list[tuple[str, float]]] = {}
    for target, source, weight in rows:
        found.setdefault(target, []).append((source, weight))
    return {target: sorted(pairs, key=lambda pair: -pair[1])[:top] for target, pairs in found.items()}


def _operating_points(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Each point of all runs: thresholds and, as means over the runs, what they give on validation and test."""
    found = {}
    for name in runs[0].record.get("operating_points", {}):
        points = [run.record["operating_points"][name] for run in runs if name in run.record["operating_points"]]
        rates = {}
        for metric in ("sensitivity", "specificity"):
            rates[metric] = [
                _mean(point["val"][metric] for point in points),
                _mean(point["test"][metric]["value"] for point in points),
            ]
        found[name] = {"thresholds": sorted(point["threshold"] for point in points), **rates}
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _purposes(run: Run) -> dict[str, int]:
    return {name: count for name, count in run.record["queries"].items() if name not in _NOT_PURPOSES}
