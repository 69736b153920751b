"""What an experiment shows: metrics with intervals over examples, averaged over seeds, beside every baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from reprogram.checks import is_black_box
from reprogram.errors import DataError
from reprogram.evaluation.baselines import missing
from reprogram.evaluation.classes import per_class
from reprogram.evaluation.intervals import Interval, bootstrap
from reprogram.evaluation.metrics import Floats, evaluate, point_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.subgroups import subgroups
from reprogram.evaluation.verdict import MAIN, Verdict, verdict
from reprogram.reports.collect import OURS
from reprogram.reports.experiments import Experiment
from reprogram.reports.pooling import Pooled, pool

Scores = dict[str, dict[str, Interval]]  # of each classifier, by metric


@dataclass(frozen=True, eq=False)
class Summary:
    """One experiment, ready to be shown.

    Args:
        experiment: Its runs.
        pooled: Their test predictions.
        scores: Mean over seeds, with an interval over the test examples: the same resamples for all seeds and
            classifiers.
        differences: Reprogrammed minus each baseline, with ``p_value``.
        spread: Mean and standard deviation over single runs, by metric; empty for one run.
        verdicts: Of each metric.
        per_class: Metrics of each class against the rest, first seed.
        subgroups: Metrics by attribute and value, first seed.
    """

    experiment: Experiment
    pooled: Pooled
    scores: Scores
    differences: Scores
    spread: dict[str, tuple[float, float]]
    verdicts: dict[str, Verdict]
    per_class: dict[str, Any]
    subgroups: dict[str, Any]

    @property
    def ours(self) -> dict[str, Interval]:
        """Metrics of the reprogrammed classifier."""
        return self.scores[OURS]

    @property
    def baselines(self) -> list[str]:
        """Names, best balanced accuracy first."""
        names = [name for name in self.scores if name != OURS]
        return sorted(names, key=lambda name: -(self.scores[name][MAIN]["value"] or 0.0))

    @property
    def record(self) -> dict[str, Any]:
        """``metrics.json`` of the first run, for what all runs share."""
        return self.experiment.runs[0].record

    @property
    def repeats(self) -> str:
        """Such as ``10 folds, 2 seeds``."""
        return ", ".join(self._counts) or "1 run"

    @property
    def spread_over(self) -> str:
        """What the spread is over."""
        counts = self._counts
        return counts[0] if len(counts) == 1 else f"{len(self.experiment.runs)} runs"

    @property
    def _counts(self) -> list[str]:
        seeds, runs = len(self.pooled.seeds), self.experiment.runs
        folds = len([run for run in runs if run.record["seed"] == self.pooled.seeds[0]])
        left = runs[0].config["protocol"].get("attribute")
        unit = "folds" if left is None else f"{left}s"
        return [f"{count} {name}" for count, name in ((folds, unit), (seeds, "seeds")) if count > 1]


def summarise(experiment: Experiment, num_resamples: int = 1000) -> Summary:
    """Computes everything from the predictions of the runs.

    Raises:
        DataError: If the predictions of the runs cannot be pooled.
    """
    try:
        pooled = pool(experiment.runs)
    except DataError as error:
        raise DataError(f"{experiment.heading}: {error}") from error
    first = experiment.runs[0]
    ordinal = is_ordinal(first.record)
    baselines = [name for name in pooled.classifiers if name != OURS]
    scores = mean_scores(pooled.classifiers, ordinal, num_resamples)
    over = {name: differences(pooled.classifiers, OURS, name, ordinal, num_resamples) for name in baselines}
    asked = [name for run in experiment.runs for name in (*run.tested, *run.record.get("left_out", []))]
    lost = [name for name in asked if name not in pooled.classifiers]
    absent = list(dict.fromkeys([*missing(baselines, is_black_box(first.config)), *lost]))
    theirs = {name: scores[name] for name in baselines}
    bands = first.config["evaluation"].get("bands") or {}
    return Summary(
        experiment,
        pooled,
        scores,
        over,
        _spread([run.tested[OURS] for run in experiment.runs if run.record["seed"] in pooled.seeds], ordinal),
        {metric: verdict(scores[OURS], theirs, over, absent, metric) for metric in scores[OURS]},
        per_class(pooled.first, num_resamples, 0, None, first.classes),
        subgroups(pooled.first, bands, ordinal, num_resamples, 0),
    )


def is_ordinal(record: Mapping[str, Any]) -> bool:
    """Whether kappa means something: of two classes, or of grades."""
    return "quadratic_kappa" in record["test"]


def mean_scores(classifiers: Mapping[str, Sequence[Predictions]], ordinal: bool, num_resamples: int) -> Scores:
    """Metrics of each classifier, averaged over its seeds within each resample."""
    return {
        name: bootstrap(seeds[0], partial(_mean, seeds, ordinal), num_resamples) for name, seeds in classifiers.items()
    }


def differences(
    classifiers: Mapping[str, Sequence[Predictions]], one: str, other: str, ordinal: bool, num_resamples: int
) -> dict[str, Interval]:
    """Metrics of one classifier minus those of another on the same resamples, each averaged over its seeds."""

    def difference(weights: Floats) -> dict[str, Floats]:
        first, second = (_mean(classifiers[name], ordinal, weights) for name in (one, other))
        return {metric: first[metric] - second[metric] for metric in first}

    return bootstrap(classifiers[one][0], difference, num_resamples, test=True)


def _mean(seeds: Sequence[Predictions], ordinal: bool, weights: Floats) -> dict[str, Floats]:
    found = [evaluate(one.targets, one.scores, weights, ordinal) for one in seeds]
    return {metric: np.mean([one[metric] for one in found], axis=0) for metric in found[0]}


def _spread(parts: Sequence[Predictions], ordinal: bool) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over runs, of those in which a metric is defined."""
    found = [point_metrics(part, ordinal) for part in parts]
    columns = {metric: np.array([one[metric] for one in found]) for metric in found[0]}
    defined = {metric: column[~np.isnan(column)] for metric, column in columns.items()}
    return {
        metric: (float(column.mean()), float(column.std(ddof=1)))
        for metric, column in defined.items()
        if len(column) > 1
    }
