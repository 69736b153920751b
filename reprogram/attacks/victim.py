"""What is attacked: a reprogrammed classifier from end to end, or its bare source."""

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.data.loader import to_float
from reprogram.evaluation.baselines.setting import whole
from reprogram.sources.base import SourceModel
from reprogram.types import SourceSpec


class Victim(SourceModel):
    """A model of images as somebody outside meets it: its largest log-score is its decision.

    Args:
        source: The source within, which counts the queries where they are counted.
        spec: Size of its images, and its classes.
    """

    def __init__(self, source: SourceModel, spec: SourceSpec) -> None:
        super().__init__()
        self.source, self.spec = source, spec

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Scores images.

        Shapes:
            images: [B, 1 or 3, h, w] floating, in [0, 1] -> [B, K] log-scores.
        """

    @abstractmethod
    def probabilities(self, scores: Tensor) -> Tensor:
        """Class probabilities of log-scores, both [B, K]."""

    @abstractmethod
    def decide(self, scores: Tensor) -> Tensor:
        """Decisions [B] of log-scores [B, K]."""

    @abstractmethod
    def images(self, examples: Examples) -> Tensor:
        """The images [N, C, h, w] in [0, 1] that are attacked; grey ones have one channel."""

    @property
    def fingerprint(self) -> str:
        """That of the source within."""
        return self.source.fingerprint


class WholeClassifier(Victim):
    """Target image, program, source, mapping, decision - with the operating threshold, where there is one.

    With a threshold t the scores are log p_0 - log(1 - t) and log p_1 - log t, whose order is the decision; else log p.

    Args:
        classifier: In evaluation mode.
    """

    def __init__(self, classifier: ReprogrammedClassifier) -> None:
        task, source = classifier.task, classifier.source
        name = f"{task.name} on {source.spec.name}"
        spec = SourceSpec(name, task.image_size, task.class_names, differentiable=source.spec.differentiable)
        super().__init__(source, spec)
        self.classifier = classifier
        threshold = classifier.threshold
        self._shift = None if threshold is None else (-math.log(1 - threshold), -math.log(threshold))

    def forward(self, images: Tensor) -> Tensor:
        """See ``Victim``."""
        scores = self.classifier.scores(self.classifier.compose(images.expand(-1, 3, -1, -1)))
        log_probs = (scores / self.classifier.temperature).log_softmax(dim=1)
        return log_probs if self._shift is None else log_probs + log_probs.new_tensor(self._shift)

    def probabilities(self, scores: Tensor) -> Tensor:
        """See ``Victim``: the calibrated ones."""
        return (scores if self._shift is None else scores - scores.new_tensor(self._shift)).softmax(dim=1)

    def decide(self, scores: Tensor) -> Tensor:
        """See ``Victim``."""
        return self.classifier.decide(self.probabilities(scores))

    def images(self, examples: Examples) -> Tensor:
        """See ``Victim``: target images at their own resolution."""
        return _floats(examples, lambda images: images)


class BareSource(Victim):
    """The source alone, without program and mapping, on target images resized to its whole canvas.

    Args:
        source: Of a classifier.
    """

    def __init__(self, source: SourceModel) -> None:
        super().__init__(source, source.spec)

    def forward(self, images: Tensor) -> Tensor:
        """See ``Victim``."""
        answers: Tensor = self.source(images.expand(-1, 3, -1, -1))
        return answers

    def probabilities(self, scores: Tensor) -> Tensor:
        """See ``Victim``."""
        return scores.softmax(dim=1)

    def decide(self, scores: Tensor) -> Tensor:
        """See ``Victim``."""
        return scores.argmax(dim=1)

    def images(self, examples: Examples) -> Tensor:
        """See ``Victim``: canvases."""
        return _floats(examples, lambda images: whole(images, self.source))


def _floats(examples: Examples, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Stored images as numbers, a hundred at a time, with as many channels as they have."""
    stored, channels = examples.images, examples.images.shape[1]
    parts = [stored[start : start + 100] for start in range(0, len(stored), 100)]
    return torch.cat([change(to_float(part))[:, :channels] for part in parts])
