"""A classifier whose worst case is known: linear, without a program, and with a count of its own."""

import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.programs.full import FullProgram
from reprogram.sources.base import SourceModel
from reprogram.types import SourceSpec, TaskSpec

SIZE = (6, 5)


class LinearSource(SourceModel):
    """Scores two classes by w x and 0, after log-softmax; remembers what it was sent, and can fail."""

    def __init__(self, weight: Tensor, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.spec = SourceSpec("linear", size, ("first", "second"))
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.seen: list[int] = []
        self.fails_at: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if self.fails_at is not None and sum(self.seen) >= self.fails_at:
            raise RuntimeError("the service is gone")
        first = images.flatten(1) @ self.weight
        return torch.stack([first, torch.zeros_like(first)], dim=1).log_softmax(1)

    @property
    def fingerprint(self) -> str:
        return "linear"

    @property
    def count(self) -> int:
        return sum(self.seen)


def linear(source: SourceModel, threshold: float | None = None) -> ReprogrammedClassifier:
    """The source on the whole image, its classes as they are."""
    task = TaskSpec("toy", source.spec.class_names, source.spec.image_size)
    mapping = AssignmentMapping(2, 2, "first", per_class=1)
    return ReprogrammedClassifier(FullProgram(source.spec.image_size), source, mapping, task, threshold).eval()


def examples(count: int = 20, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Images in [0.3, 0.7], which no small change takes out of [0, 1], and a weight that says first to half of them."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(count, 3, *size, generator=generator)
    weight = torch.randn(3 * size[0] * size[1], generator=generator)
    weight -= weight.mean()
    images[count // 2 :] = 1 - images[: count - count // 2]  # w (1 - x) = - w x
    return images, weight
