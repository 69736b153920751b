"""What a run says of its predictions: calibrated and thresholded on validation, with intervals, beside baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reprogram.errors import ConfigError
from reprogram.evaluation.calibration import calibrated, fit_temperature
from reprogram.evaluation.classes import confusion, per_class
from reprogram.evaluation.intervals import paired_differences, with_intervals
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.subgroups import subgroups
from reprogram.evaluation.threshold import POINTS, operating_points
from reprogram.types import TaskSpec

COMPARED = ("accuracy", "balanced_accuracy", "auroc")
CALIBRATIONS = ("temperature", "none")

Splits = dict[str, Predictions]


@dataclass(frozen=True)
class Choices:
    """How predictions are judged.

    Args:
        num_resamples: Of every bootstrap, >= 1.
        seed: Of every bootstrap.
        calibration: ``temperature``, fitted on validation, or ``none``.
        operating_point: Where two classes are told apart: ``youden``, ``fixed_specificity`` or ``fixed_sensitivity``.
        fixed_specificity: Specificity that validation must reach at the second of these, in (0, 1).
        fixed_sensitivity: Sensitivity that validation must reach at the third, in (0, 1).
        bands: Edges that cut a numeric attribute into bands, by its name.

    Raises:
        ConfigError: If a choice has no such name or a number is out of range.
    """

    num_resamples: int = 1000
    seed: int = 0
    calibration: str = "temperature"
    operating_point: str = "youden"
    fixed_specificity: float = 0.9
    fixed_sensitivity: float = 0.9
    bands: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what cannot be judged by."""
        for key, got, known in (
            ("calibration", self.calibration, CALIBRATIONS),
            ("operating_point", self.operating_point, POINTS),
        ):
            if got not in known:
                raise ConfigError(f"evaluation.{key}: expected one of {', '.join(known)}, got '{got}'")
        for key, value in (
            ("fixed_specificity", self.fixed_specificity),
            ("fixed_sensitivity", self.fixed_sensitivity),
        ):
            if not 0 < value < 1:
                raise ConfigError(f"evaluation.{key}: expected a number in (0, 1), got {value}")
        for name, edges in self.bands.items():
            if not edges or list(edges) != sorted(set(edges)):
                raise ConfigError(f"evaluation.bands.{name}: expected ascending edges, got {list(edges)}")


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found: the calibrated predictions, what the classifier needs to make them, and the record of both."""

    predictions: Splits
    baselines: dict[str, Splits]
    temperature: float
    threshold: float | None
    record: dict[str, Any]


def measure(raw: Splits, raw_baselines: Mapping[str, Splits], task: TaskSpec, choices: Choices) -> Measured:
    """Judges predictions of ``val`` and ``test``; whatever is fitted or chosen is so on ``val``.

    Args:
        raw: Of the reprogrammed classifier, before calibration.
        raw_baselines: Of each baseline, likewise: each gets a temperature of its own.
        task: Class names, and whether they are ordered.
        choices: How.
    """
    temperature, predictions = _calibrate(raw, choices)
    baselines = {name: _calibrate(splits, choices)[1] for name, splits in raw_baselines.items()}
    points = operating_points(predictions["val"], choices.fixed_specificity, choices.fixed_sensitivity)
    threshold = points.get(choices.operating_point)
    test, resamples, seed = predictions["test"], choices.num_resamples, choices.seed

    def judged(found: Predictions, at: float | None = None) -> dict[str, Any]:
        return with_intervals(found, task.ordinal, resamples, seed, threshold=at)

    before = point_metrics(raw["test"], task.ordinal)
    record = {
        **{split: judged(found) for split, found in predictions.items()},
        "baselines": {name: {split: judged(one) for split, one in found.items()} for name, found in baselines.items()},
        "over_baselines": {
            name: paired_differences(test, found["test"], COMPARED, resamples, seed)
            for name, found in baselines.items()
        },
        "per_class": per_class(test, resamples, seed, threshold, task.class_names),
        "groups": subgroups(test, choices.bands, task.ordinal, resamples, seed),
        "confusion": confusion(test, threshold),
        "calibration": {"temperature": temperature, "test_before": {name: before[name] for name in ("nll", "ece")}},
        "operating_points": {
            name: {
                "threshold": at,
                "val": {key: _known(value) for key, value in point_metrics(predictions["val"], False, at).items()},
                "test": judged(test, at),
            }
            for name, at in points.items()
        },
        "threshold": threshold,
        "test_at_threshold": None if threshold is None else judged(test, threshold),
    }
    return Measured(predictions, baselines, temperature, threshold, record)


def _calibrate(splits: Splits, choices: Choices) -> tuple[float, Splits]:
    if choices.calibration == "none":
        return 1.0, splits
    temperature = fit_temperature(splits["val"])
    return temperature, {split: calibrated(found, temperature) for split, found in splits.items()}


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None
