"""The reprogrammed classifier: program, frozen source and label mapping in a row."""

import torch
from torch import Tensor, nn

from reprogram.errors import ShapeError
from reprogram.mappings.base import LabelMapping
from reprogram.programs.base import InputProgram
from reprogram.sources.base import SourceModel
from reprogram.types import TaskSpec


class ReprogrammedClassifier(nn.Module):
    """Classifies target images with a source model that was trained for something else.

    Args:
        program: Target image -> source image.
        source: Source image -> source log-probabilities.
        mapping: Source log-probabilities -> target log-scores.
        task: Class names and image size of the target task.
        threshold: Operating point: lowest probability of the second of two classes at which it is chosen; chosen on
            validation, ``None`` for more than two classes (the likeliest is chosen).
        temperature: Divides the log-scores, so that probabilities are calibrated; fitted on validation.
    """

    def __init__(
        self,
        program: InputProgram,
        source: SourceModel,
        mapping: LabelMapping,
        task: TaskSpec,
        threshold: float | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.program, self.source, self.mapping = program, source, mapping
        self.task = task
        self.threshold, self.temperature = threshold, temperature

    @property
    def class_names(self) -> tuple[str, ...]:
        """Target classes in the order of the scores."""
        return self.task.class_names

    def forward(self, images: Tensor) -> Tensor:
        """Returns class probabilities.

        Shapes:
            images: [B, 3, h, w] (or [B, 1, h, w], grey) uint8, or floating in [0, 1] -> [B, K_t], rows sum to one.

        Raises:
            ShapeError: If the images are of another shape or range.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ShapeError(f"expected images [B, 3, h, w] or [B, 1, h, w], got {list(images.shape)}")
        images = images.expand(-1, 3, -1, -1)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif images.numel() and not (images.min() >= 0 and images.max() <= 1):
            raise ShapeError(f"expected pixels in [0, 1], got {images.min():.3g} to {images.max():.3g}")
        return self.probabilities(self.scores(self.compose(images)))

    def compose(self, images: Tensor) -> Tensor:
        """Source images, [B, 3, H, W] in [0, 1], of float target images [B, 3, h, w]."""
        composed: Tensor = self.program(self.program.context(images))
        return composed

    def scores(self, canvases: Tensor) -> Tensor:
        """Target log-scores [B, K_t] of source images."""
        scores: Tensor = self.mapping(self.source(canvases))
        return scores

    def probabilities(self, scores: Tensor) -> Tensor:
        """Calibrated class probabilities of target log-scores, both [B, K_t]."""
        return (scores / self.temperature).softmax(dim=1)

    def decide(self, probabilities: Tensor) -> Tensor:
        """Class index [B] of class probabilities [B, K_t], by the operating threshold where there is one."""
        if self.threshold is None:
            return probabilities.argmax(dim=1)
        return (probabilities[:, 1] >= self.threshold).long()
