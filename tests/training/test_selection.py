"""After the last step: the best epoch, and one more fit where validation agrees."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.errors import RunError
from reprogram.estimators.backprop import Backprop
from reprogram.losses import CrossEntropy
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.programs.frame import FrameProgram
from reprogram.sources.network import NetworkSource
from reprogram.training.module import ReprogrammingModule
from reprogram.training.selection import refit_at_end, restore_best
from reprogram.types import TaskSpec

CPU = torch.device("cpu")


class Quadrants(nn.Module):
    """Four logits: how bright each quarter of the image is."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


def examples(quadrants: list[int], targets: list[int], name: str) -> Examples:
    """Images with one bright quarter each."""
    images = torch.zeros(len(quadrants), 3, 6, 6, dtype=torch.uint8)
    for image, quadrant in zip(images, quadrants, strict=True):
        row, column = divmod(quadrant, 2)
        image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 200
    return Examples(images, torch.tensor(targets), tuple(f"{name}{index}" for index in range(len(targets))))


def data(val_targets: list[int]) -> TaskData:
    """Training says: quarter 2 is class 0, quarter 3 is class 1; validation has the same images and labels given."""
    task = TaskSpec("toy", ("a", "b"), (6, 6))
    train = examples([2, 2, 3, 3, 2, 3], [0, 0, 1, 1, 0, 1], "train")
    val, test = examples([2, 2, 3, 3], val_targets, "val"), examples([2, 3], [0, 1], "test")
    return TaskData(task, {"train": train, "val": val, "test": test})


def classifier(assignment: list[list[int]], refit: bool = True) -> ReprogrammedClassifier:
    source = NetworkSource("quadrants", Quadrants(), (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mapping = FrequencyMapping(4, 2, refresh="never", refit_at_end=refit)
    mapping.assignment.copy_(torch.tensor(assignment))
    return ReprogrammedClassifier(FrameProgram((8, 8), 6), source, mapping, TaskSpec("toy", ("a", "b"), (6, 6)))


@pytest.mark.parametrize(("monitor", "mode"), [("val/accuracy", "max"), ("val/nll", "min")])
def test_a_refit_that_helps_on_validation_is_kept(monitor: str, mode: str) -> None:
    model = classifier([[3], [2]])  # the wrong way round
    asked = refit_at_end(model, data([0, 0, 1, 1]), 4, CPU, monitor, mode)
    assert model.mapping.assignment.tolist() == [[2], [3]]
    assert asked == {"mapping": 6, "validation": 8}


@pytest.mark.parametrize(("monitor", "mode"), [("val/accuracy", "max"), ("val/nll", "min")])
def test_a_refit_that_hurts_on_validation_is_not(monitor: str, mode: str) -> None:
    model = classifier([[3], [2]])
    asked = refit_at_end(model, data([1, 1, 0, 0]), 4, CPU, monitor, mode)  # labels as the old mapping has them
    assert model.mapping.assignment.tolist() == [[3], [2]]
    assert asked == {"mapping": 6, "validation": 8}


def test_of_equally_good_ones_the_newest_is_kept() -> None:
    model = classifier([[0], [1]])
    refit_at_end(model, data([0, 1, 0, 1]), 4, CPU, "val/accuracy", "max")
    assert model.mapping.assignment.tolist() == [[2], [3]]


def test_what_was_observed_in_training_does_not_count() -> None:
    model = classifier([[0], [1]])
    model.mapping.observe(torch.eye(4)[:2].repeat(100, 1).log().clamp(min=-9), torch.tensor([0, 1]).repeat(100))
    refit_at_end(model, data([0, 0, 1, 1]), 4, CPU, "val/accuracy", "max")
    assert model.mapping.assignment.tolist() == [[2], [3]]
    assert not model.mapping.counts.any()


def test_a_mapping_that_does_not_want_it_is_left_alone_and_costs_nothing() -> None:
    model = classifier([[3], [2]], refit=False)
    assert refit_at_end(model, data([0, 0, 1, 1]), 4, CPU, "val/accuracy", "max") == {}
    assert model.mapping.assignment.tolist() == [[3], [2]]


def module(model: ReprogrammedClassifier) -> ReprogrammingModule:
    return ReprogrammingModule(model, CrossEntropy(), Backprop(), lambda groups: torch.optim.SGD(groups, lr=1.0))


def test_the_best_epoch_comes_back_with_program_and_mapping(tmp_path: Path) -> None:
    best = module(classifier([[2], [3]]))
    with torch.no_grad():
        best.classifier.program.theta.normal_()
    torch.save({"state_dict": best.state_dict(), "epoch": 4}, tmp_path / "best.ckpt")

    final = module(classifier([[0], [1]]))
    assert restore_best(final, tmp_path / "best.ckpt", "val/accuracy") == 4
    assert torch.equal(final.classifier.program.theta, best.classifier.program.theta)
    assert final.classifier.mapping.assignment.tolist() == [[2], [3]]


def test_a_training_too_short_for_validation_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no best epoch was saved.*val/auroc"):
        restore_best(module(classifier([[0], [1]])), tmp_path / "best.ckpt", "val/auroc")
