"""The seam between models and estimators: what one batch costs, as a function of the program."""

import copy
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.losses import Loss


class Evaluation(NamedTuple):
    """Forwards of N images: losses [N], source log-probabilities [N, K_s] and target scores [N, K_t]."""

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

    def learned(self) -> list[nn.Parameter]:
        """Everything that follows the gradient: theta, and what the mapping learns."""
        mapping = self.classifier.mapping.parameters()
        return [one for one in (self.classifier.program.theta, *mapping) if one.requires_grad]

    def evaluate(self) -> Evaluation:
        """Runs the whole chain once at theta, with graph."""
        log_probs = self.classifier.source(self.classifier.program(self.context))
        return self._score(log_probs, self.targets)

    def evaluate_at(self, points: Tensor) -> Evaluation:
        """Runs the chain for every example at S points; no graph passes the source.

        So many images go through the source together as it says: memory does not grow with the number of points.

        Shapes:
            points: [S, 1, D] program parameters shared by the batch, or [S, B, D] with each example's own.
            -> losses [S, B], log-probabilities [S, B, K_s] and scores [S, B, K_t]; a mapping that learns has a graph
            from its log-probabilities on.
        """
        sides, batch = len(points), len(self.targets)
        with torch.no_grad():
            answers = torch.cat([self.classifier.source(images) for images in self._gathered(self._canvases(points))])
        if sides > batch:  # then they come example by example
            answers = answers.view(batch, sides, -1).transpose(0, 1).flatten(0, 1)
        found = self._score(answers, self.targets.repeat(sides))
        return Evaluation(*(part.view(sides, batch, *part.shape[1:]) for part in found))

    def at_once(self, graph: bool) -> int:
        """Most examples of one forward; see ``SourceModel``."""
        return self.classifier.source.at_once(graph)

    def split(self, size: int) -> "list[BatchObjective]":
        """The objectives of parts of the batch, of at most so many examples each."""
        return [self._part(slice(start, start + size)) for start in range(0, len(self.targets), size)]

    def _part(self, rows: slice) -> "BatchObjective":
        part = copy.copy(self)
        part.targets, part.weights, part.indices = self.targets[rows], self.weights[rows], self.indices[rows]
        part.context = tuple(one[rows] for one in self.context)
        return part

    def _canvases(self, points: Tensor) -> Iterator[Tensor]:
        """Source images of all pairs, along the longer axis: of the placed images there are only views."""
        (sides, own, _), batch, program = points.shape, len(self.targets), self.classifier.program
        size = self.at_once(graph=False)
        if sides > batch:
            for example in range(batch):
                context = tuple(part[example : example + 1] for part in self.context)
                for theta in torch.split(points[:, example % own], size):
                    yield program(tuple(part.expand(len(theta), *part.shape[1:]) for part in context), theta)
        else:
            for side in points:
                for rows in (slice(start, start + size) for start in range(0, batch, size)):
                    yield program(tuple(part[rows] for part in self.context), side[0] if own == 1 else side[rows])

    def _gathered(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """As many together as the source takes, whatever their parts."""
        waiting, room = list[Tensor](), self.at_once(graph=False)
        for part in parts:
            while len(part) >= room:
                yield _together([*waiting, part[:room]])
                part, waiting, room = part[room:], [], self.at_once(graph=False)
            if len(part):
                waiting.append(part)
                room -= len(part)
        if waiting:
            yield _together(waiting)

    def _score(self, log_probs: Tensor, targets: Tensor) -> Evaluation:
        scores = self.classifier.mapping(log_probs)
        return Evaluation(self._loss(scores, targets), log_probs, scores)


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
