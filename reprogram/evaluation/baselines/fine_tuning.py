"""The source itself, trained on the target task: what reprogramming does without."""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from reprogram.data.loader import BatchLoader, to_float
from reprogram.errors import ConfigError, SourceError
from reprogram.evaluation.baselines.setting import Answer, Predict, Setting, softmax, whole
from reprogram.evaluation.metrics import evaluate
from reprogram.sources.features import final_layer
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import gains_from_bfloat16

log = logging.getLogger(__name__)

WEIGHT_DECAY = 1e-4
HEAD = 10  # the new layer starts from nothing and learns so many times as fast


class FineTuning:
    """Trains all weights of a copy of the source, whose last layer gives way to one for the target classes.

    AdamW and a cosine schedule on the cross-entropy of the plain target images, resized to the whole canvas, without
    augmentation; in bfloat16 where the hardware gains from it. The epoch of the best balanced accuracy on validation
    is kept (of equal ones that of the lower negative log-likelihood).

    Args:
        network: Makes a source that nothing else uses and that was not prepared.
        epochs: >= 1.
        lr: Learning rate of the pretrained weights, > 0.
        batch_size: Images of a step, >= 2: BatchNorm learns nothing from one.
        seed: Of the new layer, of dropout and of the order of the images.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        network: Callable[[], NetworkSource],
        epochs: int = 5,
        lr: float = 1e-4,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        for key, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
            if value < least:
                raise ConfigError(f"evaluation.fine_tuning.{key}: expected a whole number >= {least}, got {value}")
        if not 0 < lr < math.inf:
            raise ConfigError(f"evaluation.fine_tuning.lr: expected a number > 0, got {lr}")
        self.network, self.epochs, self.lr, self.batch_size, self.seed = network, epochs, lr, batch_size, seed

    def __call__(self, setting: Setting) -> Predict:
        """Trains, and predicts with the best epoch.

        Raises:
            SourceError: If the network has no final layer, or the training diverges.
        """
        with torch.random.fork_rng([setting.device] if setting.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            source = self.network()
            network, head = source.network.requires_grad_(True), _new_head(source, setting.data.spec.num_classes)
            source.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            answer = _answer(source)
            loader = BatchLoader(setting.train, self.batch_size, shuffle=True, seed=self.seed)
            new = set(head.parameters())
            old = [weight for weight in network.parameters() if weight not in new]
            rates: list[dict[str, Any]] = [{"params": old, "lr": self.lr}, {"params": list(new), "lr": HEAD * self.lr}]
            optimizer = AdamW(rates, weight_decay=WEIGHT_DECAY)
            scheduler = CosineAnnealingLR(optimizer, self.epochs * len(loader))
            best, kept = (-1.0, 0.0), network.state_dict()
            for epoch in range(self.epochs):
                loader.set_epoch(epoch)
                _set_mode(network, training=True)
                for batch in loader:
                    if len(batch.targets) > 1:
                        images, targets = batch.images.to(setting.device), batch.targets.to(setting.device)
                        optimizer.zero_grad()
                        nll_loss(answer(to_float(images)), targets).backward()  # type: ignore[no-untyped-call]
                        optimizer.step()
                    scheduler.step()
                _set_mode(network, training=False)
                quality = self._quality(setting, answer)
                log.info("baseline fine_tuning, epoch %d: balanced accuracy %.3f on val", epoch, quality[0])
                if quality > best:
                    best, kept = quality, copy.deepcopy(network.state_dict())
        network.load_state_dict(kept)
        return lambda examples: softmax(setting.answers(examples, answer))

    def _quality(self, setting: Setting, answer: Answer) -> tuple[float, float]:
        """Balanced accuracy and log-likelihood on validation."""
        val = setting.data.splits["val"]
        log_probs = setting.answers(val, answer)
        if not log_probs.isfinite().all():
            raise SourceError(f"fine-tuning diverged; lower evaluation.fine_tuning.lr={self.lr}")
        metrics = evaluate(val.targets.numpy(), softmax(log_probs), None, ordinal=False)
        return float(metrics["balanced_accuracy"][0]), -float(metrics["nll"][0])


def _answer(source: NetworkSource) -> Answer:
    """Log-probabilities of target images [B, 3, h, w], in the layout and precision that are fast here."""

    def answer(images: Tensor) -> Tensor:
        canvas = whole(images, source).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=gains_from_bfloat16(images.device.type)):
            log_probs: Tensor = source(canvas)
        return log_probs

    return answer


def _new_head(source: NetworkSource, num_classes: int) -> nn.Module:
    """Puts a fresh layer with one output for each target class in the place of the final one."""
    name, old = final_layer(source)
    parent, _, child = name.rpartition(".")
    head = (
        nn.Linear(old.in_features, num_classes)
        if isinstance(old, nn.Linear)
        else nn.Conv2d(old.in_channels, num_classes, 1)
    )
    setattr(source.network.get_submodule(parent), child, head)
    return head


def _set_mode(network: nn.Module, training: bool) -> None:
    """Of BatchNorm, dropout and the like, not of what contains them: Inception returns other outputs in training."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) or next(layer.children(), None) is None:
            layer.training = training
