"""Fits the label mapping at the moments its schedule names."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader, real_rows, to_float
from reprogram.mappings.base import LabelMapping
from reprogram.training.module import ReprogrammingModule


@torch.inference_mode()
def observe_once(
    classifier: ReprogrammedClassifier, mapping: LabelMapping, loader: BatchLoader, device: torch.device
) -> int:
    """Shows a mapping the responses to every training image once; returns how many images were scored."""
    scored = 0
    with classifier.source.asked_for("mapping"):
        for batch in loader:
            log_probs: Tensor = classifier.source(classifier.compose(to_float(batch.images)))
            rows = real_rows(batch)
            trust = None if batch.trust is None else batch.trust[rows]
            mapping.observe(log_probs[rows], batch.targets[rows], trust)
            scored += len(batch.images)
    return scored


class MappingRefresh(pl.Callback):
    """Fits before the first step on one pass over the training set, then as the schedule says.

    Args:
        train: Training images of a pass: the split, or the part of it that queries are spent on.
        batch_size: Global batch size of the pass.
        refits: Whether the budget allows the passes before later validations.
    """

    def __init__(self, train: Examples, batch_size: int, refits: bool = True) -> None:
        self.train, self.batch_size, self.refits = train, batch_size, refits

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first fit; a resumed run has it behind it."""
        assert isinstance(pl_module, ReprogrammingModule)
        if pl_module.classifier.mapping.schedule.at_start and pl_module.refit_epoch < 0:
            self._fit_afresh(trainer, pl_module)
            pl_module.refit_epoch.fill_(0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A fit from the responses of the epochs since the last one."""
        assert isinstance(pl_module, ReprogrammingModule)
        mapping, epoch = pl_module.classifier.mapping, trainer.current_epoch
        if mapping.schedule.due(epoch) and int(pl_module.refit_epoch) < epoch:
            mapping.refit()
            pl_module.refit_epoch.fill_(epoch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A fit to the program of the moment."""
        assert isinstance(pl_module, ReprogrammingModule)
        if self.refits and pl_module.classifier.mapping.schedule.before_validation:
            self._fit_afresh(trainer, pl_module)

    def observe(self, trainer: pl.Trainer, module: ReprogrammingModule) -> None:
        """Shows the mapping this process's share of a pass."""
        rank, processes, device = trainer.global_rank, trainer.world_size, module.device
        loader = BatchLoader(self.train, self.batch_size, False, 0, rank, processes, device)
        asked = observe_once(module.classifier, module.classifier.mapping, loader, device)
        module.queries["mapping"] += asked

    def _fit_afresh(self, trainer: pl.Trainer, module: ReprogrammingModule) -> None:
        self.observe(trainer, module)
        module.classifier.mapping.refit()
