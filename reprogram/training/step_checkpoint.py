"""Checkpoints between the steps, from which a run that was cut off continues as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loops.progress import _ProcessedTracker

from reprogram import preemption
from reprogram.distributed import any_process
from reprogram.preemption import Preempted


class StepCheckpoint(Checkpoint):
    """Writes a checkpoint every so many steps, and when a SIGTERM or an exception ends the training.

    It does so where the training can be continued from: between two steps, with neither a validation nor the end of the
    epoch before the second, and when all is done. Lightning 2.6 takes a validation that was due when the checkpoint was
    written for done, a step that was begun too, and an epoch at its end for one with steps to come (unless it ends with
    a validation). After a SIGTERM elsewhere the checkpoint before counts.

    Args:
        path: The file, written over each time.
        every: Optimiser steps between two checkpoints; one more where a step is no such place.
        on_exception: Whether an exception (Ctrl-C, an oracle that fails) leaves a checkpoint.
    """

    def __init__(self, path: Path, every: int, on_exception: bool) -> None:
        self.path, self.every, self.saves_on_exception = path, every, on_exception
        self._saved = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from where the training starts or continues."""
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves every so many steps, and when a process was asked to end: then all do, after the same step."""
        stopping = _ends_step(trainer) and any_process(preemption.received(), trainer.strategy.root_device)
        if (stopping or trainer.global_step >= self._saved + self.every) and _between_steps(trainer):
            self._save(trainer)
        if stopping:
            raise Preempted

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves what the training ends with."""
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves what the last checkpoint has not, if the exception came between two steps."""
        if self.saves_on_exception and trainer.global_step > self._saved and _between_steps(trainer):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step


def _ends_step(trainer: pl.Trainer) -> bool:
    """Whether the optimiser has stepped after this batch."""
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return trainer.is_last_batch or ready % trainer.accumulate_grad_batches == 0


def _between_steps(trainer: pl.Trainer) -> bool:
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    batches = loop.batch_progress.current
    assert isinstance(batches, _ProcessedTracker)
    return (
        trainer.training
        and fetcher is not None
        and batches.ready == batches.completed + 1 == batches.processed  # in the hooks after the step
        and _ends_step(trainer)
        and not trainer.is_last_batch
        and not loop._should_check_val_fx(fetcher)
    )
