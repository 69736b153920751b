"""What is known of the examples stays with their scores."""

import torch
from torch import nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.evaluation.scoring import score
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.programs.frame import FrameProgram
from reprogram.sources.network import NetworkSource
from reprogram.types import TaskSpec


def test_groups_and_attributes_go_with_the_scores() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    source = NetworkSource("colour", network, (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    task = TaskSpec("toy", ("red", "blue"), (6, 6))
    mapping = AssignmentMapping(3, 2, "given", given=[[0], [2]])
    model = ReprogrammedClassifier(FrameProgram((8, 8), 6), source, mapping, task).eval()
    images = torch.zeros(3, 3, 6, 6, dtype=torch.uint8)
    images[[0, 1, 2], [2, 0, 2]] = 255
    groups, attributes = ("p1", "p1", "p2"), {"site": ("A", "", "B"), "age": ("9", "10", "")}
    examples = Examples(images, torch.tensor([1, 0, 0]), ("x", "y", "z"), groups, attributes)

    found = score(model, examples, "val", 2, torch.device("cpu"))
    assert (found.split, found.ids, found.groups) == ("val", ("x", "y", "z"), groups)
    assert found.attributes == attributes
    assert found.targets.tolist() == [1, 0, 0]
    assert found.scores.argmax(axis=1).tolist() == [1, 0, 1]
