"""After the last step: the best epoch on validation, and one more fit of the mapping if validation agrees."""

import copy
import logging
from pathlib import Path

import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import TaskData
from reprogram.data.loader import BatchLoader
from reprogram.errors import RunError
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.scoring import score
from reprogram.training.mapping_refresh import observe_once
from reprogram.training.module import ReprogrammingModule

log = logging.getLogger(__name__)


def restore_best(module: ReprogrammingModule, checkpoint: Path, monitor: str) -> int:
    """Loads the program and mapping of the best epoch on validation; returns that epoch.

    Raises:
        RunError: If no epoch was ever validated.
    """
    if not checkpoint.is_file():
        raise RunError(f"{checkpoint}: no best epoch was saved; was the training long enough to validate {monitor}?")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"], strict=False)
    epoch: int = state["epoch"]
    return epoch


def refit_at_end(
    classifier: ReprogrammedClassifier,
    data: TaskData,
    batch_size: int,
    device: torch.device,
    monitor: str,
    mode: str,
) -> dict[str, int]:
    """Fits the mapping to the final program's responses; the old one stays where it scores better on validation.

    Args:
        classifier: With the best program; its mapping is replaced in place.
        data: The target task.
        batch_size: Examples of a forward.
        device: Where the classifier is.
        monitor: Metric that decides, ``val/<name>``.
        mode: ``max`` or ``min``.

    Returns:
        Images the source was asked for, by purpose.
    """
    if not classifier.mapping.schedule.at_end:
        return {}
    metric, val = monitor.removeprefix("val/"), data.splits["val"]
    old = point_metrics(score(classifier, val, "val", batch_size, device), data.spec.ordinal)[metric]
    kept = copy.deepcopy(classifier.mapping)
    classifier.mapping.reset()
    loader = BatchLoader(data.splits["train"], batch_size, shuffle=False, seed=0)
    asked = observe_once(classifier, classifier.mapping, loader, device)
    classifier.mapping.refit()
    new = point_metrics(score(classifier, val, "val", batch_size, device), data.spec.ordinal)[metric]
    worse = new < old if mode == "max" else new > old
    if worse:
        classifier.mapping = kept
    log.info("mapping  refitted: validation %s %.4f -> %.4f, %s", metric, old, new, "not kept" if worse else "kept")
    return {"mapping": asked, "validation": 2 * len(val)}
