"""A task whose classes are bright quarters, and a source that sees just these: every number can be worked out."""

import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import SPLITS, Examples, TaskData
from reprogram.evaluation.baselines import Baselines, FineTuning, Setting
from reprogram.mappings.base import LabelMapping
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.programs.frame import FrameProgram
from reprogram.sources.base import SourceModel
from reprogram.sources.network import NetworkSource
from reprogram.types import TaskSpec

CPU = torch.device("cpu")
QUADRANT_OF = [2, 0, 3]  # which quarter of the image is bright, by target class
COUNTS = {"train": (6, 3, 3), "val": (2, 2, 1), "test": (1, 2, 4)}


class Quadrants(nn.Module):
    """Four features, how bright each quarter of the image is, and as many logits, ten times that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.head.weight.copy_(10 * torch.eye(4))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1))


def quadrants() -> NetworkSource:
    return NetworkSource("quadrants", Quadrants(), (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def examples(name: str) -> Examples:
    generator = torch.Generator().manual_seed(SPLITS.index(name))
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS[name]))
    images = torch.randint(0, 120, (len(targets), 3, 6, 6), dtype=torch.uint8, generator=generator)
    for image, target in zip(images, targets.tolist(), strict=True):
        row, column = divmod(QUADRANT_OF[target], 2)
        image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 130
    ids = tuple(f"{name}{index}" for index in range(len(targets)))
    return Examples(images, targets, ids, tuple(f"patient_{label}" for label in ids), {"eye": ("left",) * len(ids)})


def quarters() -> TaskData:
    return TaskData(TaskSpec("toy", ("a", "b", "c"), (6, 6)), {name: examples(name) for name in SPLITS})


def classifier(mapping: LabelMapping, source: SourceModel | None = None) -> ReprogrammedClassifier:
    task = TaskSpec("toy", ("a", "b", "c"), (6, 6))
    return ReprogrammedClassifier(FrameProgram((8, 8), 6), source or quadrants(), mapping, task).eval()


def not_at_home() -> SourceModel:
    raise AssertionError("made without need")


def baselines(data: TaskData, model: ReprogrammedClassifier | None = None, batch_size: int = 3) -> Baselines:
    """Beside a frequency mapping; whatever nobody asked for fails when it is made."""
    model = classifier(FrequencyMapping(4, 3)) if model is None else model
    return Baselines(Setting(model, data, data.splits["train"], batch_size, CPU, not_at_home, FineTuning(not_at_home)))
