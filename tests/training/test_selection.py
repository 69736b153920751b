"""What a run ends with: the best of start and validations, and one more fit where validation agrees."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.errors import RunError
from reprogram.estimators.backprop import Backprop
from reprogram.evaluation.predictions import Predictions
from reprogram.losses import CrossEntropy
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.programs.frame import FrameProgram
from reprogram.sources.network import NetworkSource
from reprogram.training.module import ReprogrammingModule
from reprogram.training.selection import Criterion, refit_at_end, restore_best
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


def refitted(model: ReprogrammedClassifier, task: TaskData, monitor: str, mode: str) -> dict[str, int]:
    return refit_at_end(model, task, task.splits["train"], 4, CPU, Criterion(monitor, mode))


def unasked() -> Predictions:
    raise AssertionError("who need not be sure asks for nothing")


@pytest.mark.parametrize(("monitor", "mode"), [("val/accuracy", "max"), ("val/nll", "min")])
def test_a_refit_that_helps_on_validation_is_kept(monitor: str, mode: str) -> None:
    model = classifier([[3], [2]])  # the wrong way round
    asked = refitted(model, data([0, 0, 1, 1]), monitor, mode)
    assert model.mapping.assignment.tolist() == [[2], [3]]
    assert asked == {"mapping": 6, "validation": 8}


@pytest.mark.parametrize(("monitor", "mode"), [("val/accuracy", "max"), ("val/nll", "min")])
def test_a_refit_that_hurts_on_validation_is_not(monitor: str, mode: str) -> None:
    model = classifier([[3], [2]])
    asked = refitted(model, data([1, 1, 0, 0]), monitor, mode)  # labels as the old mapping has them
    assert model.mapping.assignment.tolist() == [[3], [2]]
    assert asked == {"mapping": 6, "validation": 8}


def test_of_equally_good_ones_the_newest_is_kept() -> None:
    model = classifier([[0], [1]])
    refitted(model, data([0, 1, 0, 1]), "val/accuracy", "max")
    assert model.mapping.assignment.tolist() == [[2], [3]]


def test_what_was_observed_in_training_does_not_count() -> None:
    model = classifier([[0], [1]])
    model.mapping.observe(torch.eye(4)[:2].repeat(100, 1).log().clamp(min=-9), torch.tensor([0, 1]).repeat(100))
    refitted(model, data([0, 0, 1, 1]), "val/accuracy", "max")
    assert model.mapping.assignment.tolist() == [[2], [3]]
    assert not model.mapping.counts.any()


def test_a_mapping_that_does_not_want_it_is_left_alone_and_costs_nothing() -> None:
    model = classifier([[3], [2]], refit=False)
    assert refitted(model, data([0, 0, 1, 1]), "val/accuracy", "max") == {}
    assert model.mapping.assignment.tolist() == [[3], [2]]


def module(model: ReprogrammedClassifier) -> ReprogrammingModule:
    return ReprogrammingModule(model, CrossEntropy(), Backprop(), lambda groups: torch.optim.SGD(groups, lr=1.0))


def candidate(assignment: list[list[int]], **row: float) -> ReprogrammingModule:
    """A state that was validated, with a program of its own."""
    made = module(classifier(assignment))
    with torch.no_grad():
        made.classifier.program.theta.normal_()
    made.history = [{"epoch": -1, "step": 0, **row}]
    return made


def save(made: ReprogrammingModule, path: Path) -> None:
    checkpoint: dict[str, object] = {}
    made.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ("mode", "start", "reached", "program_wins"),
    [
        ("max", 0.5, 0.6, True),
        ("max", 0.6, 0.5, False),
        ("max", 0.5, 0.5, False),  # it must add something
        ("min", 0.5, 0.4, True),
        ("min", 0.4, 0.5, False),
        ("max", math.nan, 0.1, True),
        ("max", 0.5, math.nan, False),
    ],
)
def test_a_program_must_beat_the_mapping_alone(
    mode: str, start: float, reached: float, program_wins: bool, tmp_path: Path
) -> None:
    alone, trained = candidate([[2], [3]], **{"val/x": start}), candidate([[0], [1]], **{"val/x": start})
    trained.history.append({"epoch": 3, "step": 12, "val/x": reached})
    save(alone, tmp_path / "start.ckpt")
    save(trained, tmp_path / "best.ckpt")
    final = candidate([[1], [0]], **{"val/x": start})
    final.history += [trained.history[1], {"epoch": 4, "step": 16, "val/x": 0.0}]

    row = restore_best(final, tmp_path, Criterion("val/x", mode), unasked)
    winner = trained if program_wins else alone
    assert row["step"] == (12 if program_wins else 0)
    assert torch.equal(final.classifier.program.theta, winner.classifier.program.theta)
    assert torch.equal(final.classifier.mapping.assignment, winner.classifier.mapping.assignment)
    assert len(final.history) == 3  # all that was validated stays in the record


def predictions(right: list[bool]) -> Predictions:
    """Of two classes, certain to 0.9 and so often right."""
    targets = np.zeros(len(right), dtype=np.int64)
    sure = np.where(right, 0.9, 0.1)
    return Predictions("val", tuple(map(str, range(len(right)))), targets, np.stack([sure, 1 - sure], axis=1))


@pytest.mark.parametrize(
    ("confidence", "better", "kept"),
    [(0.9, 10, True), (0.9995, 10, False), (0.9, 0, False), (0.9, -10, False), (0.5, 1, True)],
)
@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("nll", "min")])
def test_a_program_is_kept_where_validation_is_sure_of_it(
    metric: str, mode: str, confidence: float, better: int, kept: bool, tmp_path: Path
) -> None:
    monitor, worse = f"val/{metric}", 1.0 if mode == "min" else 0.0
    alone, trained = candidate([[2], [3]], **{monitor: worse}), candidate([[0], [1]], **{monitor: worse})
    trained.history.append({"epoch": 3, "step": 12, monitor: 1 - worse})
    save(alone, tmp_path / "start.ckpt")
    save(trained, tmp_path / "best.ckpt")
    final = candidate([[1], [0]], **{monitor: worse})
    held, asked = [60, 60 + better], []

    def validate() -> Predictions:
        """The first time by the mapping alone, then with the program; they differ in 10 of 100, or in one more."""
        count = held[len(asked)]
        asked.append(final.classifier.program.theta.clone())
        return predictions([index < count for index in range(100)])

    row = restore_best(final, tmp_path, Criterion(monitor, mode, confidence), validate)
    assert torch.equal(asked[0], alone.classifier.program.theta)
    assert torch.equal(asked[1], trained.classifier.program.theta)
    winner = trained if kept else alone
    assert row["step"] == (12 if kept else 0)
    assert torch.equal(final.classifier.program.theta, winner.classifier.program.theta)


def test_a_single_patient_makes_nobody_sure() -> None:
    one, other = (dataclasses.replace(predictions(right), groups=("p",) * 4) for right in ([True] * 4, [False] * 4))
    assert not Criterion("val/accuracy", "max", 0.5).is_sure(one, other)


def test_without_any_later_validation_the_mapping_alone_is_kept(tmp_path: Path) -> None:
    alone, final = candidate([[2], [3]], **{"val/x": 0.5}), candidate([[0], [1]], **{"val/x": 0.5})
    save(alone, tmp_path / "start.ckpt")
    assert restore_best(final, tmp_path, Criterion("val/x", "max"), unasked)["epoch"] == -1
    assert torch.equal(final.classifier.program.theta, alone.classifier.program.theta)


def test_a_training_that_never_validated_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no program was saved.*val/auroc"):
        restore_best(module(classifier([[0], [1]])), tmp_path, Criterion("val/auroc", "max"), unasked)
