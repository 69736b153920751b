"""Which program and mapping a run ends with: whatever validation prefers, the untrained program included."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import BatchLoader
from reprogram.errors import RunError
from reprogram.evaluation.intervals import paired_difference
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.scoring import score
from reprogram.training.candidates import START, load_checkpoint, trained_states
from reprogram.training.mapping_refresh import observe_once
from reprogram.training.module import ReprogrammingModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Criterion:
    """What a program is chosen by.

    Args:
        monitor: Metric of the validation split, ``val/<name>``.
        mode: ``max`` or ``min``.
        confidence: How sure validation must be that a program beats the mapping alone, 0.5..1 exclusive, by a paired
            bootstrap; ``None``: any gain counts.
    """

    monitor: str
    mode: str
    confidence: float | None = None

    @property
    def metric(self) -> str:
        """The metric's own name."""
        return self.monitor.removeprefix("val/")

    def worth(self, value: float) -> float:
        """The metric so that more is better, and undefined the worst."""
        return -math.inf if math.isnan(value) else value if self.mode == "max" else -value

    def is_sure(self, reached: Predictions, alone: Predictions) -> bool:
        """Whether validation says with enough confidence that one state is better than another."""
        assert self.confidence is not None
        gain = paired_difference(reached, alone, self.metric)
        value, p_value = gain["value"], gain["p_value"]  # undefined where there is one group, or one class
        if value is None or p_value is None:
            return False
        return self.worth(value) > 0 and p_value / 2 <= 1 - self.confidence


def restore_best(
    module: ReprogrammingModule, folder: Path, criterion: Criterion, validate: Callable[[], Predictions]
) -> dict[str, float]:
    """Loads the program and mapping that did best on validation; returns their row of the history.

    Args:
        module: Gets them.
        folder: Of the checkpoints.
        criterion: What chooses; a program must do better than the mapping alone.
        validate: Predictions of the validation split by what the module holds, for a criterion that must be sure.

    Raises:
        RunError: If nothing was ever validated.
    """
    monitor = criterion.monitor
    if not module.history:
        raise RunError(f"{folder}: no program was saved; was the training long enough to validate {monitor}?")
    alone, best = load_checkpoint(folder / START), module.history[0]
    module.load_state_dict(alone["state_dict"], strict=False)
    outcome = f"validation {criterion.metric}: {best[monitor]:.4f} by the mapping alone"
    for trained in map(load_checkpoint, trained_states(folder)):
        row: dict[str, float] = trained["reprogram"]["history"][-1]
        if criterion.worth(row[monitor]) > criterion.worth(best[monitor]):
            state, best = trained["state_dict"], row
    if best is module.history[0]:
        log.info("program  %s, no better with a program", outcome)
        return best
    outcome += f", {best[monitor]:.4f} with the program"
    without = None if criterion.confidence is None else validate()
    module.load_state_dict(state, strict=False)
    if without is not None and not criterion.is_sure(validate(), without):
        module.load_state_dict(alone["state_dict"], strict=False)
        best = module.history[0]
        outcome += f", but not with {criterion.confidence:.0%} confidence: it is left out"
    log.info("program  %s", outcome)
    return best


def refit_at_end(
    classifier: ReprogrammedClassifier,
    data: TaskData,
    train: Examples,
    batch_size: int,
    device: torch.device,
    criterion: Criterion,
) -> dict[str, int]:
    """Fits the mapping to the final program's responses; the old one stays where it scores better on validation.

    Args:
        classifier: With the best program; its mapping is replaced in place.
        data: The target task.
        train: Training images of the pass.
        batch_size: Examples of a forward.
        device: Where the classifier is.
        criterion: What decides.

    Returns:
        Images the source was asked for, by purpose.
    """
    if not classifier.mapping.schedule.at_end:
        return {}
    metric, val = criterion.metric, data.splits["val"]
    old = point_metrics(score(classifier, val, "val", batch_size, device), data.spec.ordinal)[metric]
    kept = copy.deepcopy(classifier.mapping)
    classifier.mapping.reset()
    loader = BatchLoader(train, batch_size, shuffle=False, seed=0, device=device)
    asked = observe_once(classifier, classifier.mapping, loader, device)
    classifier.mapping.refit()
    new = point_metrics(score(classifier, val, "val", batch_size, device), data.spec.ordinal)[metric]
    worse = criterion.worth(new) < criterion.worth(old)
    if worse:
        classifier.mapping = kept
    log.info("mapping  refitted: validation %s %.4f -> %.4f, %s", metric, old, new, "not kept" if worse else "kept")
    return {"mapping": asked, "validation": 2 * len(val)}
