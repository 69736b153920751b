"""The states of a training that can be chosen in the end, validated and kept in files."""

import pickle
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader
from reprogram.errors import RunError
from reprogram.training.mapping_refresh import MappingRefresh
from reprogram.training.module import ReprogrammingModule
from reprogram.types import Batch

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
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": pl_module.state_dict()}, self.folder / START)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last state, unless it was validated."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.history[-1]["step"] == trainer.global_step:
            return
        self.refresh.on_validation_start(trainer, pl_module)
        self._validate(trainer, pl_module)
        trainer.save_checkpoint(self.folder / END.format(step=trainer.global_step))

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
