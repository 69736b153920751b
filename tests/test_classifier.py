"""Program, source and mapping in a row, from images to decisions."""

import pytest
import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import ConfigError, ShapeError
from reprogram.losses import CrossEntropy
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.objective import BatchObjective
from reprogram.programs.frame import FrameProgram
from reprogram.sources.network import NetworkSource
from reprogram.types import TaskSpec


class Brightness(nn.Module):
    """Four logits, ten times the mean of the quarters of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


def classifier(threshold: float | None = None) -> ReprogrammedClassifier:
    source = NetworkSource("brightness", Brightness(), (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    task = TaskSpec("toy", ("dark", "bright"), (6, 6))
    return ReprogrammedClassifier(FrameProgram((8, 8), 6), source, AssignmentMapping(4, 2), task, threshold)


def images(dtype: torch.dtype = torch.uint8) -> Tensor:
    stored = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    return stored if dtype == torch.uint8 else stored.to(dtype) / 255


def test_probabilities_are_the_chain_by_hand() -> None:
    model, pixels = classifier(), images(torch.float32)
    canvas = torch.full((5, 3, 8, 8), 0.5)
    canvas[:, :, 1:7, 1:7] = pixels
    torch.testing.assert_close(model.compose(pixels), canvas)
    logits = 10 * torch.stack([canvas[:, :, r : r + 4, c : c + 4].mean((1, 2, 3)) for r in (0, 4) for c in (0, 4)], 1)
    expected = logits[:, :2].softmax(1)  # the other two source classes are nobody's
    torch.testing.assert_close(model(pixels), expected)


def test_bytes_and_floats_grey_and_colour_agree() -> None:
    model, stored = classifier(), images()
    probabilities = model(stored)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    assert torch.equal(model(stored.float() / 255), probabilities)
    grey = stored[:, :1]
    assert torch.equal(model(grey), model(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(3, 6, 6), "expected images"),
        (torch.zeros(1, 2, 6, 6), "expected images"),
        (torch.full((1, 3, 6, 6), 255.0), "0, 1.*255"),
        (torch.full((1, 3, 6, 6), -0.1), r"expected pixels in \[0, 1\]"),
        (torch.full((1, 3, 6, 6), float("nan")), r"expected pixels in \[0, 1\]"),
    ],
    ids=["no-batch", "two-channels", "0-to-255", "negative", "nan"],
)
def test_other_images_are_refused(wrong: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        classifier()(wrong)


def test_decisions_follow_the_threshold_where_there_is_one() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    assert classifier().decide(probabilities).tolist() == [0, 0, 1]
    assert classifier(0.3).decide(probabilities).tolist() == [0, 1, 1]


def test_the_objective_evaluates_own_and_given_parameters_alike() -> None:
    model, targets = classifier(), torch.tensor([0, 1, 0, 1, 0])
    theta = torch.randn_like(model.program.theta)
    rows = torch.arange(5)
    objective = BatchObjective(model, CrossEntropy(), images(torch.float32), targets, torch.full((5,), 0.2), rows)
    given = objective.evaluate_at(theta[None, None])
    per_example = objective.evaluate_at(theta.expand(1, 5, -1))
    with torch.no_grad():
        model.program.theta.copy_(theta)
    own = objective.evaluate()
    assert own.losses.shape == (5,)
    assert own.log_probs.shape == (5, 4)
    assert own.scores.shape == (5, 2)
    for one in (given, per_example):
        for left, right in zip(one, own, strict=True):
            torch.testing.assert_close(left[0], right)
    expected = -own.scores.log_softmax(1)[rows, targets]
    torch.testing.assert_close(own.losses, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ("one",)}, "at least two"),
        ({"class_names": ("one", "one")}, "distinct"),
        ({"support": torch.ones(6, 6)}, "boolean support"),
        ({"support": torch.ones(5, 6, dtype=torch.bool)}, "boolean support"),
    ],
    ids=["one-class", "same-names", "float-support", "other-size"],
)
def test_a_task_that_cannot_be_learned_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskSpec(**{"name": "toy", "class_names": ("a", "b"), "image_size": (6, 6), **arguments})  # type: ignore[arg-type]
