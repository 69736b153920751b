"""The source itself, trained on the target task: what reprogramming does without."""

import copy
import logging
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from reprogram.data.loader import BatchLoader, to_float
from reprogram.errors import ConfigError, SourceError
from reprogram.evaluation.baselines.setting import Answer, Predict, Setting, softmax, whole
from reprogram.evaluation.metrics import evaluate
from reprogram.mappings.logistic import fit_logistic
from reprogram.sources.features import final_layer, penultimate
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import gains_from_bfloat16

log = logging.getLogger(__name__)

WEIGHT_DECAY = 1e-4


class FineTuning:
    """Trains all weights of a copy of the source, whose last layer gives way to one for the target classes.

    The new layer starts as logistic regression on penultimate features, so that it does not distort what it stands on.
    Then AdamW and a cosine schedule on the cross-entropy of the plain target images, resized to the whole canvas,
    without augmentation or dropout; in bfloat16 where the hardware gains from it. BatchNorm keeps the statistics of the
    source, which on hundreds of images does far better than those of batches. The best epoch on validation is kept, by
    balanced accuracy, then by likelihood; no epoch at all if that was best.

    Args:
        network: Makes a source that nothing else uses and that was not prepared.
        epochs: >= 1.
        lr: Learning rate, > 0.
        batch_size: Images of a step, >= 1.
        seed: Of the order of the images.

    Raises:
        ConfigError: If a number is out of range.

    Reference:
        The start: Fine-tuning can distort pretrained features and underperform out-of-distribution, Kumar et al., ICLR
        2022, arXiv 2202.10054.
    """

    def __init__(
        self,
        network: Callable[[], NetworkSource],
        epochs: int = 5,
        lr: float = 1e-4,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        for key, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"evaluation.fine_tuning.{key}: expected a whole number >= 1, got {value}")
        if not 0 < lr < math.inf:
            raise ConfigError(f"evaluation.fine_tuning.lr: expected a number > 0, got {lr}")
        self.network, self.epochs, self.lr, self.batch_size, self.seed = network, epochs, lr, batch_size, seed

    def __call__(self, setting: Setting) -> Predict:
        """Trains, and predicts with the best epoch.

        Raises:
            SourceError: If the network has no final layer, or the training diverges.
        """
        source = self.network()
        source.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = source.network.requires_grad_(True)
        _replace_final_layer(source, setting)
        loader = BatchLoader(setting.train, self.batch_size, shuffle=True, seed=self.seed, device=setting.device)
        optimizer = torch.optim.AdamW(network.parameters(), self.lr, weight_decay=WEIGHT_DECAY)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * len(loader))
        answer = _fast(source, source)
        best, kept = self._quality(setting, answer), copy.deepcopy(network.state_dict())
        for epoch in range(self.epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                optimizer.zero_grad()
                log_probs = answer(to_float(batch.images))
                if batch.trust is None:
                    loss = nll_loss(log_probs, batch.targets)
                else:
                    loss = (batch.weights * nll_loss(log_probs, batch.targets, reduction="none")).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
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


def _fast(source: NetworkSource, answer: Answer) -> Answer:
    """Answers to target images, resized to the whole canvas, in the layout and precision that are fast here."""

    def on_canvas(images: Tensor) -> Tensor:
        canvas = whole(images, source).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=gains_from_bfloat16(images.device.type)):
            return answer(canvas)

    return on_canvas


def _replace_final_layer(source: NetworkSource, setting: Setting) -> None:
    """Puts logistic regression on the target classes in the place of the final layer."""
    name, old = final_layer(source)
    features = setting.answers(setting.train, _fast(source, partial(penultimate, source))).double().numpy()
    count = setting.data.spec.num_classes
    train = setting.train
    weight, bias, _ = fit_logistic(features, train.targets.numpy(), count, per_feature=False, weights=train.weights())
    new = nn.Linear(old.in_features, count) if isinstance(old, nn.Linear) else nn.Conv2d(old.in_channels, count, 1)
    new.load_state_dict({"weight": torch.from_numpy(weight).view_as(new.weight), "bias": torch.from_numpy(bias)})
    parent, _, child = name.rpartition(".")
    setattr(source.network.get_submodule(parent), child, new.to(setting.device))
