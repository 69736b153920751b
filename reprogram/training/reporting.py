"""Tells the sweep that has started a run how it goes, and ends it when others do better."""

import os

import pytorch_lightning as pl

from reprogram import launched
from reprogram.channel import VARIABLE, Channel, open_channel
from reprogram.distributed import from_first_process
from reprogram.errors import RunPruned
from reprogram.training.module import ReprogrammingModule


class Reporting(pl.Callback):
    """Reports every validation: number 0 is that of the mapping alone.

    Args:
        monitor: Metric to report, ``val/<name>``.
        channel: To the sweep; ``None`` in all processes of a run but the first.
    """

    def __init__(self, monitor: str, channel: Channel | None) -> None:
        self.monitor, self.channel = monitor, channel
        self._reported = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports what is new; of a run that was continued, all.

        Raises:
            RunPruned: If the sweep has no more use for the run.
        """
        assert isinstance(pl_module, ReprogrammingModule)
        curve = [(number, row[self.monitor]) for number, row in enumerate(pl_module.history)][self._reported :]
        self._reported = len(pl_module.history)
        if from_first_process(self.channel is not None and self.channel.is_over(curve)):
            raise RunPruned(f"validation {self._reported - 1}: others do better, the sweep ends this run")


def reporting(monitor: str) -> list[Reporting]:
    """The callback, if a sweep has started this run."""
    if VARIABLE not in os.environ:
        return []
    return [Reporting(monitor, open_channel() if launched.is_first() else None)]
