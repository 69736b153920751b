"""The seam between models and estimators: what one batch costs, as a function of the program."""

from typing import NamedTuple

import torch
from torch import Tensor

from reprogram.classifier import ReprogrammedClassifier
from reprogram.losses import Loss

CHUNK = 256
"""Most images of one forward: memory does not grow with the number of directions."""


class Evaluation(NamedTuple):
    """Forwards of N images: losses [N], source log-probabilities [N, K_s] and target scores [N, K_t], with graph."""

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
        indices: [B] row of each example in its split, the same whatever the number of processes.
    """

    def __init__(
        self,
        classifier: ReprogrammedClassifier,
        loss: Loss,
        images: Tensor,
        targets: Tensor,
        weights: Tensor,
        indices: Tensor,
    ) -> None:
        self.classifier, self._loss = classifier, loss
        self.targets, self.weights, self.indices = targets, weights, indices
        self.context = classifier.program.context(images)

    @property
    def theta(self) -> Tensor:
        """The program's own parameters [D]: a surrogate must depend on this very tensor."""
        return self.classifier.program.theta

    def evaluate(self) -> Evaluation:
        """Runs the whole chain once at theta, with graph."""
        log_probs = self.classifier.source(self.classifier.program(self.context))
        return self._score(log_probs, self.targets)

    def evaluate_at(self, points: Tensor, point_index: Tensor, examples: Tensor) -> Evaluation:
        """Runs the chain for N pairs of a point and an example, in chunks; no graph passes the source.

        Shapes:
            points: [P, D] program parameters.
            point_index: [N] rows of ``points``.
            examples: [N] rows of the batch.
            -> N forwards, in the order of the pairs; a mapping that learns has a graph from its log-probabilities on.
        """
        answers = []
        with torch.no_grad():
            for rows, which in zip(torch.split(point_index, CHUNK), torch.split(examples, CHUNK), strict=True):
                context = tuple(part[which] for part in self.context)
                canvases = self.classifier.program(context, points[rows])
                answers.append(self.classifier.source(canvases))
        return self._score(torch.cat(answers), self.targets[examples])

    def _score(self, log_probs: Tensor, targets: Tensor) -> Evaluation:
        scores = self.classifier.mapping(log_probs)
        return Evaluation(self._loss(scores, targets), log_probs, scores)
