"""The white-box gradient of the whole chain against finite differences, in float64."""

import pytest
import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.estimators.backprop import Backprop
from reprogram.estimators.base import StepKey
from reprogram.losses import ClassBalanced, CrossEntropy, Focal, Loss
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.mappings.base import LabelMapping
from reprogram.mappings.linear import LinearMapping
from reprogram.objective import BatchObjective
from reprogram.programs.base import InputProgram
from reprogram.programs.frame import FrameProgram
from reprogram.programs.full import FullProgram
from reprogram.sources.embedded import embedded_source
from reprogram.types import TaskSpec

NUM_SOURCE = embedded_source().spec.num_classes
COUNTS = torch.tensor([30, 10, 5])
STEP = 1e-7  # small enough that hardly any ReLU changes sides


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), ClassBalanced(COUNTS), Focal(COUNTS)], ids=lambda loss: type(loss).__name__
)
@pytest.mark.parametrize(
    "program",
    [
        FrameProgram((64, 64), 40),
        FrameProgram((64, 64), 40, activation="tanh", support=torch.ones(20, 20, dtype=torch.bool).tril()),
        FullProgram((64, 64), strength=0.3),
    ],
    ids=["sigmoid", "tanh-support", "full"],
)
@pytest.mark.parametrize(
    "mapping", [AssignmentMapping(NUM_SOURCE, 3, "random", 4), LinearMapping(NUM_SOURCE, 3)], ids=["m:1", "linear"]
)
def test_backprop_agrees_with_finite_differences(program: InputProgram, mapping: LabelMapping, loss: Loss) -> None:
    source = embedded_source().double()
    task = TaskSpec("toy", ("a", "b", "c"), (20, 20))
    classifier = ReprogrammedClassifier(program.double(), source, mapping.double(), task)
    generator = torch.Generator().manual_seed(0)
    images = 0.2 + 0.6 * torch.rand(4, 3, 20, 20, generator=generator, dtype=torch.float64)
    targets, weights = torch.tensor([0, 1, 2, 1]), torch.full((4,), 0.25, dtype=torch.float64)
    with torch.no_grad():
        program.theta.copy_(0.1 * torch.randn(len(program.theta), generator=generator, dtype=torch.float64))
    rows = torch.arange(4)
    objective = BatchObjective(classifier, loss.double(), images, targets, weights, rows)
    surrogate = Backprop().step(objective, StepKey(0, 0, 0)).surrogate
    (gradient,) = torch.autograd.grad(surrogate, program.theta)
    assert surrogate.dtype == torch.float64
    assert gradient.abs().max() > 0

    directions = torch.randn(3, len(program.theta), generator=generator, dtype=torch.float64)
    directions = torch.cat([directions, gradient[None]])
    for direction in directions / directions.norm(dim=1, keepdim=True):
        with torch.no_grad():
            points = program.theta + STEP * torch.stack([direction, -direction])
            above, below = objective.evaluate_at(points[:, None]).losses @ weights
        assert float((above - below) / (2 * STEP)) == pytest.approx(float(gradient @ direction), rel=1e-4, abs=1e-8)
