"""Ends the training cleanly when the next step could not be paid for."""

import logging
from typing import Any

import pytorch_lightning as pl

from reprogram.distributed import from_first_process
from reprogram.sources.ledger import Ledger

log = logging.getLogger(__name__)


class BudgetStop(pl.Callback):
    """Holds the queries of a whole optimiser step, of all processes, before its first image is sent.

    The plan keeps the training within the budget by itself; this is for accounts that others spend from too, and for
    queries lost in crashes.

    Args:
        ledger: Of the black box.
        queries: Most queries of one optimiser step.
        accumulate: Batches of an optimiser step.
    """

    def __init__(self, ledger: Ledger, queries: int, accumulate: int) -> None:
        self.ledger, self.queries, self.accumulate = ledger, queries, accumulate

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> int | None:
        """Leaves the epoch when the step is refused: all processes together."""
        if batch_idx % self.accumulate:
            return None
        granted = from_first_process(self.ledger.hold(self.queries) if trainer.is_global_zero else False)
        if granted:
            return None
        log.info("budget   spent after %d steps; the best program so far is kept", trainer.global_step)
        trainer.should_stop = True
        return -1
