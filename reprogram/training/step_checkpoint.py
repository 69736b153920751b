"""Checkpoints between the steps, from which a run that was cut off continues as if nothing had happened."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt`` every so many steps, but after a validation that is due, and not at the end of an epoch.

    Lightning 2.6 takes a validation that was due when the checkpoint was written for done, and an epoch that was at its
    last step for one with steps to come. The end of an epoch has a checkpoint of its own.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where nothing but the next step follows."""
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        if not trainer.is_last_batch and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves after a validation between two steps."""
        if not trainer.is_last_batch:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
