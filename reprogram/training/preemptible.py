"""Tells which part of a training a SIGTERM lets come to its end: a step."""

from typing import Any

import pytorch_lightning as pl

from reprogram import preemption


class Preemptible(pl.Callback):
    """Stands first, so that no other callback's pass over the data is waited for.

    The step's end is ``StepCheckpoint``'s: all processes stop after the same one.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here to a validation, steps follow one another."""
        preemption.wait()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation can be made again."""
        preemption.now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """So can one of the state that training ends with."""
        preemption.now()
