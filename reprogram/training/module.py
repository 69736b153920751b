"""The one Lightning module: batch -> program -> source -> mapping -> loss, whatever estimates the gradient."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.augmentation import Augmentation
from reprogram.data.loader import real_rows, to_float
from reprogram.distributed import concatenate_over_processes, from_first_process, sum_over_processes
from reprogram.errors import RunError
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.evaluation.metrics import evaluate
from reprogram.losses import Loss
from reprogram.objective import BatchObjective
from reprogram.regularizers import Regularizer
from reprogram.types import Batch

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]

SOURCE_PREFIX = "classifier.source."


class ReprogrammingModule(pl.LightningModule):
    """Trains the program, and the mapping where it learns, around the frozen source.

    Checkpoints hold everything but the source's weights. What training accumulates over an epoch (loss sums, the
    mapping's statistics) is part of them, so a run killed in mid-epoch continues as if nothing had happened.

    Args:
        classifier: Program, source and mapping.
        loss: Per-example loss.
        estimator: Gives the gradient.
        optimizer: Makes the optimiser of parameter groups.
        scheduler: Makes the schedule of the optimiser and the total number of steps; ``None``: constant.
        total_steps: Optimiser steps of the whole training.
        seed: Of the estimator's random directions.
        mapping_lr: Learning rate of the mapping; ``None``: the program's.
        augmentation: Applied to training images; ``None``: off.
        regularizer: Penalty on the program, added to the loss of every batch; ``None``: none.
    """

    sums: Tensor
    refit_epoch: Tensor

    def __init__(
        self,
        classifier: ReprogrammedClassifier,
        loss: Loss,
        estimator: GradientEstimator,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        total_steps: int = 1,
        seed: int = 0,
        mapping_lr: float | None = None,
        augmentation: Augmentation | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.loss, self.estimator = classifier, loss, estimator
        self.augmentation, self.regularizer = augmentation, regularizer
        self._optimizer, self._scheduler, self._mapping_lr = optimizer, scheduler, mapping_lr
        self._total_steps, self._seed = total_steps, seed
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64))  # loss, correct, examples, since validated
        self.register_buffer("refit_epoch", torch.tensor(-1))  # when the mapping was last fitted; -1: never
        self.history: list[dict[str, float]] = []  # one row a validation, for the learning curves
        self.queries = {"train": 0, "mapping": 0, "validation": 0}  # images this process had the source score
        self.strict_loading = False  # the source is not in checkpoints; on_load_checkpoint checks the rest
        self._outputs: list[dict[str, Tensor]] = []

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Stored pixels become float32 in [0, 1] here, once, on the device."""
        images = to_float(batch.images)
        if self.training and self.augmentation is not None:
            images = self.augmentation(images, batch.indices, self.current_epoch)
        return batch._replace(images=images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One estimate of the gradient."""
        objective = BatchObjective(
            self.classifier, self.loss, batch.images, batch.targets, batch.weights, batch.indices
        )
        with self.classifier.source.asked_for("train"):
            step = self.estimator.step(objective, StepKey(self._seed, self.current_epoch, batch_idx))
        real = batch.weights > 0
        with torch.no_grad():
            correct = step.scores.argmax(dim=1) == batch.targets
            self.sums += torch.stack([step.losses * real, correct * real, real]).double().sum(dim=1)
            if self.classifier.mapping.schedule.observes_training:
                rows = real_rows(batch)
                trust = None if batch.trust is None else batch.trust[rows]
                self.classifier.mapping.observe(step.log_probs[rows], batch.targets[rows], trust)
        self.queries["train"] += len(batch.targets) * self.estimator.queries_per_example
        if self.regularizer is None:
            return step.surrogate
        penalty: Tensor = self.regularizer(self.classifier.program)
        return step.surrogate + penalty

    def on_train_epoch_start(self) -> None:
        """Chooses the order of this epoch's batches."""
        assert self.trainer.train_dataloader is not None
        self.trainer.train_dataloader.set_epoch(self.current_epoch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores a share of the validation split."""
        with self.classifier.source.asked_for("validation"):
            probabilities = self.classifier.scores(self.classifier.compose(batch.images)).softmax(dim=1)
        rows = {"indices": batch.indices, "targets": batch.targets, "scores": probabilities, "weights": batch.weights}
        self._outputs.append(rows)  # on the device: nothing has to wait for it before the last batch
        self.queries["validation"] += len(batch.targets)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<metric>``, and the mean loss and accuracy of the training forwards since the last validation."""
        self.log_dict(self.validated(), prog_bar=False)

    def validated(self) -> dict[str, float]:
        """Scores the whole validation split, each example counted once, and adds a row to the history."""
        local = {key: torch.cat([output[key] for output in self._outputs]).cpu() for key in self._outputs[0]}
        real, self._outputs = local.pop("weights") > 0, []
        local = {key: value[real] for key, value in local.items()}
        rows = concatenate_over_processes(local)
        if rows is not None:
            order = rows["indices"].argsort()
            metrics = evaluate(
                rows["targets"][order].numpy(),
                rows["scores"][order].double().numpy(),
                weights=None,
                ordinal=self.classifier.task.ordinal,
            )
            found = {f"val/{name}": float(values[0]) for name, values in metrics.items()}
        else:
            found = {}
        found = from_first_process(found)
        loss, correct, count = sum_over_processes(self.sums).tolist()
        self.sums.zero_()
        if count:
            found |= {"train/loss": loss / count, "train/accuracy": correct / count}
        row = {"epoch": self._epoch if self.global_step else -1, "step": self.global_step}
        asked = sum_over_processes(torch.tensor(self.queries["train"] + self.queries["mapping"], device=self.device))
        queries = self.classifier.source.queries()
        if queries is not None:  # fewer where answers were stored, more where a run that was cut off asked for others
            row["queries"] = min(int(asked), queries["train"] + queries["mapping"])
        self.history.append({**row, **found})
        return found

    @property
    def _epoch(self) -> int:
        """The epoch of the last step: Lightning's own is one more when a training has ended."""
        return self.trainer.fit_loop.epoch_progress.current.ready - 1

    def configure_optimizers(self) -> Any:
        """One group for the program, one for a mapping that learns."""
        groups: list[dict[str, Any]] = [{"params": list(self.classifier.program.parameters())}]
        learned = [parameter for parameter in self.classifier.mapping.parameters() if parameter.requires_grad]
        if learned:
            rate = {} if self._mapping_lr is None else {"lr": self._mapping_lr}
            groups.append({"params": learned, **rate})
        optimizer = self._optimizer(groups)
        if self._scheduler is None:
            return optimizer
        # not trainer.estimated_stepping_batches: it sets up the loader before its position is restored (Lightning 2.6)
        schedule = self._scheduler(optimizer, self._total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything but the frozen source."""
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if not key.startswith(SOURCE_PREFIX)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes what all processes accumulated, and the history."""
        self._collect()
        checkpoint["state_dict"] = self.state_dict()
        checkpoint["reprogram"] = {"history": self.history, "queries": dict(self.queries)}

    def on_train_end(self) -> None:
        """Leaves the totals with the first process, which goes on alone."""
        self._collect()

    def _collect(self) -> None:
        """Moves what all processes accumulated to the first one: it is the one that writes."""
        self.classifier.mapping.collect()
        queries = torch.tensor(list(self.queries.values()), device=self.device)
        sums, queries = sum_over_processes(self.sums), sum_over_processes(queries)
        first = self.global_rank == 0
        self.sums.copy_(sums if first else torch.zeros_like(sums))
        self.queries = {key: value if first else 0 for key, value in zip(self.queries, queries.tolist(), strict=True)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes back the history; refuses the state of another program or mapping."""
        expected = {key: getattr(value, "shape", None) for key, value in self.state_dict().items()}
        found = {key: getattr(value, "shape", None) for key, value in checkpoint["state_dict"].items()}
        if expected != found:
            differing = sorted(set(expected.items()) ^ set(found.items()), key=str)
            raise RunError(f"the checkpoint is of another program or mapping; differing: {differing[:6]}")
        self.history = list(checkpoint["reprogram"]["history"])
        self.queries = dict(checkpoint["reprogram"]["queries"])

    def on_fit_start(self) -> None:
        """Leaves what a checkpoint brought back with the first process alone, before anything is added to it."""
        if self.global_rank > 0:
            self.sums.zero_()
            self.queries = dict.fromkeys(self.queries, 0)
            self.classifier.mapping.reset()
