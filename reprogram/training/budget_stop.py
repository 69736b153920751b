"""Ends the training cleanly when the next step could not be paid for."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch

from reprogram.distributed import from_first_process, sum_over_processes
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.training.module import ReprogrammingModule
from reprogram.training.query_plan import Sizes

log = logging.getLogger(__name__)


class BudgetStop(pl.Callback):
    """Holds the queries of a whole optimiser step, of all processes, before its first image is sent.

    When the next step is refused, all processes stop together; the program they have reached is validated.
    The plan keeps the training within the budget by itself; this is for accounts that others spend from too, and for
    queries lost in crashes. A continued run needs nothing for steps whose answers are stored.

    Args:
        ledger: Of the black box.
        sizes: Of the steps.
        spare: Queries that a step must leave free: failed attempts after it, up to the last of the test, may cost them.
    """

    def __init__(self, ledger: Ledger, sizes: Sizes, spare: int = 0) -> None:
        self.ledger, self.sizes, self.spare = ledger, sizes, spare

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Holds the first step; that of a run that is continued may be in the middle of an epoch."""
        behind = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self._hold_next(trainer, pl_module, behind % int(trainer.num_training_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Holds the next step: here, because a training that is stopped now, also by its end, is still validated."""
        if (batch_idx + 1) % self.sizes.accumulate == 0 or trainer.is_last_batch:
            self._hold_next(trainer, pl_module, 0 if trainer.is_last_batch else batch_idx + 1)

    def _hold_next(self, trainer: pl.Trainer, module: pl.LightningModule, batch: int) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True
            return
        assert isinstance(module, ReprogrammingModule)
        needed = max(0, self.sizes.step_from(batch) - self._stored(module))
        if not from_first_process(trainer.is_global_zero and self.ledger.hold(needed, self.spare)):
            log.info("budget   spent after %d steps; the best program so far is kept", trainer.global_step)
            trainer.should_stop = True

    def _stored(self, module: ReprogrammingModule) -> int:
        """Answers to the steps that come next, which the run had before it was cut off and continued."""
        source = module.classifier.source
        assert isinstance(source, BlackBox)
        if not source.stores_training:
            return 0
        seen = int(sum_over_processes(torch.tensor(module.queries["train"], device=module.device)))
        return max(0, self.ledger.spent()["train"] - self.ledger.lost()["train"] - seen)
