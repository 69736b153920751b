"""Which program and mapping a run ends with: whatever validation prefers, the untrained program included."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import BatchLoader
from reprogram.errors import RunError
from reprogram.evaluation.intervals import paired_difference
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.scoring import score
from reprogram.training.mapping_refresh import MappingRefresh, observe_once
from reprogram.training.module import ReprogrammingModule
from reprogram.types import Batch

log = logging.getLogger(__name__)

START, BEST = "start.ckpt", "best.ckpt"


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

    @property
    def sign(self) -> int:
        """What makes more of it better."""
        return 1 if self.mode == "max" else -1

    def is_sure(self, reached: Predictions, alone: Predictions) -> bool:
        """Whether validation says with enough confidence that one state is better than another."""
        assert self.confidence is not None
        gain = paired_difference(reached, alone, self.metric)
        value, p_value = gain["value"], gain["p_value"]  # undefined where there is one group, or one class
        if value is None or p_value is None:
            return False
        return self.sign * value > 0 and p_value / 2 <= 1 - self.confidence


class Candidates(pl.Callback):
    """Validates what no epoch does: the state before the first step, and the one that training ends with.

    The first is kept, since a program must beat the mapping alone to be chosen. The last was validated already, unless
    the training ended between two validations (``trainer.max_steps``, a continued run whose next step cannot be paid).

    Args:
        refresh: Fits the mapping before a validation, where its schedule says so.
        val: Validation split.
        batch_size: Global batch size.
        folder: Where checkpoints go.
        criterion: What chooses.
    """

    def __init__(
        self, refresh: MappingRefresh, val: Examples, batch_size: int, folder: Path, criterion: Criterion
    ) -> None:
        self.refresh, self.val, self.batch_size = refresh, val, batch_size
        self.folder, self.criterion = folder, criterion

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has this behind it."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history:
            return
        found = self._validate(trainer, pl_module)
        for stopping in trainer.early_stopping_callbacks:
            stopping.best_score = torch.tensor(found[self.criterion.monitor])  # patience starts from here
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": pl_module.state_dict()}, self.folder / START)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last state as the best, if it is."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history[-1]["step"] == trainer.global_step:
            return
        sign, monitor = self.criterion.sign, self.criterion.monitor
        reached = [sign * row[monitor] for row in pl_module.history[1:]]
        self.refresh.on_validation_start(trainer, pl_module)
        found = sign * self._validate(trainer, pl_module)[monitor]
        if found > max((value for value in reached if not math.isnan(value)), default=-math.inf):
            trainer.save_checkpoint(self.folder / BEST)

    @torch.no_grad()
    def _validate(self, trainer: pl.Trainer, module: ReprogrammingModule) -> dict[str, float]:
        module.eval()
        loader = BatchLoader(self.val, self.batch_size, False, 0, trainer.global_rank, trainer.world_size)
        for index, batch in enumerate(loader):
            moved = Batch(*(part.to(module.device) for part in batch))
            module.validation_step(module.on_after_batch_transfer(moved, 0), index)
        found = module.validated()
        module.train()
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
        return found


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
    start = module.history[0]
    alone = torch.load(folder / START, map_location="cpu", weights_only=True)
    module.load_state_dict(alone["state_dict"], strict=False)
    outcome = f"validation {criterion.metric}: {start[monitor]:.4f} by the mapping alone"
    if (folder / BEST).is_file():
        trained = torch.load(folder / BEST, map_location="cpu", weights_only=True)
        best: dict[str, float] = trained["reprogram"]["history"][-1]
        if criterion.sign * best[monitor] > criterion.sign * start[monitor] or math.isnan(start[monitor]):
            outcome += f", {best[monitor]:.4f} with the program"
            without = validate() if criterion.confidence is not None else None
            module.load_state_dict(trained["state_dict"], strict=False)
            if without is None or criterion.is_sure(validate(), without):
                log.info("program  %s", outcome)
                return best
            module.load_state_dict(alone["state_dict"], strict=False)
            outcome += f", but not with {criterion.confidence:.0%} confidence: it is left out"
        else:
            outcome += ", no better with a program"
    log.info("program  %s", outcome)
    return start


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
    loader = BatchLoader(train, batch_size, shuffle=False, seed=0)
    asked = observe_once(classifier, classifier.mapping, loader, device)
    classifier.mapping.refit()
    new = point_metrics(score(classifier, val, "val", batch_size, device), data.spec.ordinal)[metric]
    worse = criterion.sign * new < criterion.sign * old
    if worse:
        classifier.mapping = kept
    log.info("mapping  refitted: validation %s %.4f -> %.4f, %s", metric, old, new, "not kept" if worse else "kept")
    return {"mapping": asked, "validation": 2 * len(val)}
