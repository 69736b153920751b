"""Two runs, or two sets of folds and seeds, on the same test examples: how much they differ, and by how much luck."""

from collections.abc import Sequence
from dataclasses import dataclass

from reprogram.errors import ConfigError, DataError, RunError
from reprogram.evaluation.intervals import Interval
from reprogram.evaluation.predictions import Predictions
from reprogram.reports.collect import OURS, collect
from reprogram.reports.experiments import Experiment, group
from reprogram.reports.pooling import Pooled, aligned, pool
from reprogram.reports.summary import Scores, differences, is_ordinal, mean_scores


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came out.

    Args:
        sides: Metrics of ``A`` and ``B``.
        differences: A minus B, with ``p_value``.
        headings: What A and B are.
        examples: Number of test examples.
    """

    sides: Scores
    differences: dict[str, Interval]
    headings: dict[str, str]
    examples: int


def compare(a: str | Sequence[str], b: str | Sequence[str], num_resamples: int = 1000) -> Comparison:
    """Compares the test predictions of A and B by a paired bootstrap over the examples.

    Args:
        a: A run, or patterns of runs that differ in fold and seed alone: folds are pooled, seeds are averaged.
        b: The same.
        num_resamples: Of the bootstrap.

    Raises:
        ConfigError: If nothing matches, or one side is more than one experiment.
        RunError: If a run cannot be read.
        DataError: If A and B were not tested on the same examples.
    """
    experiments = {"A": _side("A", a), "B": _side("B", b)}
    pooled = {name: pool(experiment.runs) for name, experiment in experiments.items()}
    for name, found in pooled.items():
        if found.left_out:
            raise DataError(
                f"compare: the seeds {found.left_out} of {name} tested fewer examples; leave their runs out"
            )
    first, second = (experiment.runs[0] for experiment in experiments.values())
    if first.classes != second.classes:
        raise DataError(f"compare: expected the same classes, got {list(first.classes)} and {list(second.classes)}")
    classifiers = {name: _alike(found, pooled["A"]) for name, found in pooled.items()}
    ordinal = is_ordinal(first.record)
    return Comparison(
        mean_scores(classifiers, ordinal, num_resamples),
        differences(classifiers, "A", "B", ordinal, num_resamples),
        {name: f"{experiment.heading} ({experiment.runs[0].name})" for name, experiment in experiments.items()},
        len(pooled["A"].first.ids),
    )


def _side(name: str, patterns: str | Sequence[str]) -> Experiment:
    runs, skipped = collect(patterns)
    if skipped:
        listed = "; ".join(f"{path}: {reason}" for path, reason in skipped.items())
        raise RunError(f"compare: {len(skipped)} runs of {name} cannot be read: {listed}")
    found = group(runs)
    if len(found) > 1:
        headings = "; ".join(experiment.heading for experiment in found)
        raise ConfigError(f"compare: expected one experiment as {name}, got {len(found)}: {headings}")
    return found[0]


def _alike(pooled: Pooled, like: Pooled) -> list[Predictions]:
    try:
        return [aligned(found, like.first) for found in pooled.classifiers[OURS]]
    except DataError as error:
        raise DataError(f"compare: {error}") from error
