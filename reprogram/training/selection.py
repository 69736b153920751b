"""Which program and mapping a run ends with: whatever validation prefers, the untrained program included."""

import copy
import logging
import math
from pathlib import Path

import pytorch_lightning as pl
import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import BatchLoader
from reprogram.errors import RunError
from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.scoring import score
from reprogram.training.mapping_refresh import MappingRefresh, observe_once
from reprogram.training.module import ReprogrammingModule
from reprogram.types import Batch

log = logging.getLogger(__name__)

START, BEST = "start.ckpt", "best.ckpt"


class Candidates(pl.Callback):
    """Validates what no epoch does: the state before the first step, and the one that training ends with.

    The first is kept, since a program must beat the mapping alone to be chosen. The last was validated already, unless
    the training ended between two validations (``trainer.max_steps``, a continued run whose next step cannot be paid).

    Args:
        refresh: Fits the mapping before a validation, where its schedule says so.
        val: Validation split.
        batch_size: Global batch size.
        folder: Where checkpoints go.
        monitor: Metric that chooses, ``val/<name>``.
    """

    def __init__(
        self, refresh: MappingRefresh, val: Examples, batch_size: int, folder: Path, monitor: str, mode: str
    ) -> None:
        self.refresh, self.val, self.batch_size = refresh, val, batch_size
        self.folder, self.monitor, self.mode = folder, monitor, mode

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has this behind it."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history:
            return
        found = self._validate(trainer, pl_module)
        for stopping in trainer.early_stopping_callbacks:
            stopping.best_score = torch.tensor(found[self.monitor])  # patience starts from here
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": pl_module.state_dict()}, self.folder / START)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last state as the best, if it is."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history[-1]["step"] == trainer.global_step:
            return
        sign = 1.0 if self.mode == "max" else -1.0
        reached = [sign * row[self.monitor] for row in pl_module.history[1:]]
        self.refresh.on_validation_start(trainer, pl_module)
        found = sign * self._validate(trainer, pl_module)[self.monitor]
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
    module: ReprogrammingModule, folder: Path, monitor: str, mode: str, min_delta: float = 0.0
) -> dict[str, float]:
    """Loads the program and mapping that did best on validation; returns their row of the history.

    A program must do better than the mapping alone by more than ``min_delta``.

    Raises:
        RunError: If nothing was ever validated.
    """
    if not module.history:
        raise RunError(f"{folder}: no program was saved; was the training long enough to validate {monitor}?")
    sign = 1.0 if mode == "max" else -1.0
    start = best = module.history[0]
    state = torch.load(folder / START, map_location="cpu", weights_only=True)
    if (folder / BEST).is_file():
        trained = torch.load(folder / BEST, map_location="cpu", weights_only=True)
        reached: dict[str, float] = trained["reprogram"]["history"][-1]
        if sign * reached[monitor] > sign * start[monitor] + min_delta or math.isnan(start[monitor]):
            state, best = trained, reached
    module.load_state_dict(state["state_dict"], strict=False)
    gained = "no better with a program" if best is start else f"{best[monitor]:.4f} with the program"
    log.info("program  validation %s: %.4f by the mapping alone, %s", monitor[4:], start[monitor], gained)
    return best


def refit_at_end(
    classifier: ReprogrammedClassifier,
    data: TaskData,
    train: Examples,
    batch_size: int,
    device: torch.device,
    monitor: str,
    mode: str,
) -> dict[str, int]:
    """Fits the mapping to the final program's responses; the old one stays where it scores better on validation.

    Args:
        classifier: With the best program; its mapping is replaced in place.
        data: The target task.
        train: Training images of the pass.
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
    loader = BatchLoader(train, batch_size, shuffle=False, seed=0)
    asked = observe_once(classifier, classifier.mapping, loader, device)
    classifier.mapping.refit()
    new = point_metrics(score(classifier, val, "val", batch_size, device), data.spec.ordinal)[metric]
    worse = new < old if mode == "max" else new > old
    if worse:
        classifier.mapping = kept
    log.info("mapping  refitted: validation %s %.4f -> %.4f, %s", metric, old, new, "not kept" if worse else "kept")
    return {"mapping": asked, "validation": 2 * len(val)}
