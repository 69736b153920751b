"""The states of a training that can be chosen in the end, validated and kept in files."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader
from reprogram.distributed import sum_over_processes
from reprogram.errors import QueryBudgetExceeded, RunError
from reprogram.training.checkpoint_files import write_checkpoint
from reprogram.training.mapping_refresh import MappingRefresh
from reprogram.training.module import ReprogrammingModule

log = logging.getLogger(__name__)

START, BEST, END = "start.ckpt", "best.ckpt", "end_{step}.ckpt"


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

    def __init__(self, refresh: MappingRefresh, val: Examples, batch_size: int, folder: Path, monitor: str) -> None:
        self.refresh, self.val, self.batch_size = refresh, val, batch_size
        self.folder, self.monitor = folder, monitor

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has this behind it."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history:
            return
        found = self._validate(trainer, pl_module)
        for stopping in trainer.early_stopping_callbacks:
            stopping.best_score = torch.tensor(found[self.monitor])  # patience starts from here
        if trainer.is_global_zero:
            write_checkpoint({"state_dict": pl_module.state_dict()}, self.folder / START)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last state, unless it was validated, or a run that was cut off cannot pay for that any more."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history[-1]["step"] == trainer.global_step:
            return
        mapping = pl_module.classifier.mapping
        if self.refresh.refits and mapping.schedule.before_validation:
            if not _paid(lambda: self.refresh.observe(trainer, pl_module), pl_module.device):
                return mapping.reset()
            mapping.refit()
        if _paid(lambda: self._score(trainer, pl_module), pl_module.device):
            self._record(trainer, pl_module)
            trainer.save_checkpoint(self.folder / END.format(step=trainer.global_step))

    def _validate(self, trainer: pl.Trainer, module: ReprogrammingModule) -> dict[str, float]:
        self._score(trainer, module)
        return self._record(trainer, module)

    @torch.no_grad()
    def _score(self, trainer: pl.Trainer, module: ReprogrammingModule) -> None:
        """This process's share of the validation split."""
        module.eval()
        rank, processes = trainer.global_rank, trainer.world_size
        for index, batch in enumerate(BatchLoader(self.val, self.batch_size, False, 0, rank, processes, module.device)):
            module.validation_step(module.on_after_batch_transfer(batch, 0), index)
        module.train()

    def _record(self, trainer: pl.Trainer, module: ReprogrammingModule) -> dict[str, float]:
        """Metrics of what all processes have scored."""
        found = module.validated()
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
        return found


def _paid(ask: Callable[[], None], device: torch.device) -> bool:
    """Whether all processes could ask for their shares: if not, they go on together without."""
    lacking = torch.zeros((), device=device)
    try:
        ask()
    except QueryBudgetExceeded as error:
        log.warning("budget   %s; the last program is not validated", error)
        lacking += 1
    return not sum_over_processes(lacking)


def trained_states(folder: Path) -> list[Path]:
    """Checkpoints of the programs that can be chosen."""
    return [path for path in (folder / BEST, *sorted(folder.glob(END.format(step="*")))) if path.is_file()]


def check_checkpoints(last: Path) -> None:
    """Reads all that a run to be continued will need in the end.

    Raises:
        RunError: If a file is missing or broken.
    """
    for path in (last, last.parent / START, *trained_states(last.parent)):
        load_checkpoint(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU; never unpickled.

    Raises:
        RunError: If it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        got = "a broken file" if path.exists() else "none"
        raise RunError(
            f"{path}: expected a checkpoint, got {got}; put a copy back, or choose another run_dir"
        ) from error
    return state
