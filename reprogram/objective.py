"""The seam between models and estimators: what one batch costs, as a function of the program."""

from typing import NamedTuple

from torch import Tensor

from reprogram.classifier import ReprogrammedClassifier
from reprogram.losses import Loss


class Evaluation(NamedTuple):
    """One forward of a batch: losses [B], source log-probabilities [B, K_s] and target scores [B, K_t], with graph."""

    losses: Tensor
    log_probs: Tensor
    scores: Tensor


class BatchObjective:
    """The loss of one batch through program, source and mapping.

    Args:
        classifier: Program, source and mapping.
        loss: Per-example loss.
        images: [B, 3, h, w] floating, in [0, 1].
        targets: [B].
        weights: [B] of the examples; their weighted sum is the loss of this process's share (see ``Batch``).
    """

    def __init__(
        self, classifier: ReprogrammedClassifier, loss: Loss, images: Tensor, targets: Tensor, weights: Tensor
    ) -> None:
        self.classifier, self._loss = classifier, loss
        self.targets, self.weights = targets, weights
        self.context = classifier.program.context(images)

    def evaluate(self, theta: Tensor | None = None) -> Evaluation:
        """Runs the whole chain once, at theta ([D], or [B, D] with one row per example) or the program's own."""
        log_probs = self.classifier.source(self.classifier.program(self.context, theta))
        scores = self.classifier.mapping(log_probs)
        return Evaluation(self._loss(scores, self.targets), log_probs, scores)
