"""Objectives whose gradient is known, and a whole chain whose source counts what it is sent."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.losses import CrossEntropy
from reprogram.mappings.linear import LinearMapping
from reprogram.objective import BatchObjective, Evaluation
from reprogram.programs.frame import FrameProgram
from reprogram.sources.base import SourceModel
from reprogram.types import SourceSpec, TaskSpec

Losses = Callable[[Tensor, Tensor], Tensor]
D = 6
WEIGHTS = (0.4, 0.1, 0.3, 0.2)


class Toy(BatchObjective):
    """Losses of examples as a plain function of points [N, D] and of their rows [N] in the split."""

    def __init__(self, losses: Losses, theta: Tensor | None = None, weights: Sequence[float] = WEIGHTS) -> None:
        if theta is None:
            theta = torch.linspace(-1, 1, D, dtype=torch.float64)
        self._theta = theta.clone().requires_grad_()
        self.function = losses
        self.weights = theta.new_tensor(weights)
        self.targets = torch.zeros(len(weights), dtype=torch.int64)
        self.indices = torch.arange(len(weights))

    @property
    def theta(self) -> Tensor:
        return self._theta

    def evaluate(self) -> Evaluation:
        return self._rows(self.function(self.theta.expand(len(self.indices), -1), self.indices))

    def at_once(self, graph: bool) -> int:
        return len(self.indices)

    def evaluate_at(self, points: Tensor) -> Evaluation:
        sides, batch = len(points), len(self.indices)
        rows = points.expand(sides, batch, -1).flatten(0, 1)
        with torch.no_grad():
            found = self._rows(self.function(rows, self.indices.repeat(sides)))
        return Evaluation(*(part.unflatten(0, (sides, batch)) for part in found))

    def part(self, start: int, of: int) -> "Toy":
        """Every n-th example: what one of n processes has."""
        made = Toy(self.function, self.theta.detach(), (of * self.weights[start::of]).tolist())
        made.indices = self.indices[start::of]
        return made

    @staticmethod
    def _rows(losses: Tensor) -> Evaluation:
        return Evaluation(losses, losses[:, None] * losses.new_tensor([1, 2, 3]), losses[:, None].expand(-1, 2))


def linear() -> tuple[Losses, Callable[[Tensor], Tensor]]:
    """Losses, and the gradient of their weighted sum."""
    slopes = torch.randn(len(WEIGHTS), D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor(WEIGHTS, dtype=torch.float64) @ slopes
    return lambda points, rows: (points * slopes[rows].to(points)).sum(1) + 1, lambda theta: mean


def quadratic() -> tuple[Losses, Callable[[Tensor], Tensor]]:
    """1/2 (theta - centre)^T H (theta - centre), where H couples the coordinates."""
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(len(WEIGHTS), D, dtype=torch.float64, generator=generator)
    factor = torch.randn(D, D, dtype=torch.float64, generator=generator)
    hessian = factor @ factor.T / D + 0.3 * torch.eye(D)
    mean = torch.tensor(WEIGHTS, dtype=torch.float64) @ centres

    def losses(points: Tensor, rows: Tensor) -> Tensor:
        away = points - centres[rows].to(points)
        return 0.5 * ((away @ hessian.to(points)) * away).sum(1)

    return losses, lambda theta: hessian @ (theta.detach() - mean)


def estimate(estimator: GradientEstimator, objective: BatchObjective, batch: int) -> Tensor:
    """What one step gives theta for a gradient."""
    surrogate = estimator.step(objective, StepKey(0, 0, batch)).surrogate
    (gradient,) = torch.autograd.grad(surrogate, objective.theta)
    return gradient


def train(estimator: GradientEstimator, objective: Toy, batches: range, rate: float = 1.0) -> None:
    """Plain gradient steps."""
    for batch in batches:
        gradient = estimate(estimator, objective, batch)
        with torch.no_grad():
            objective.theta.sub_(rate * gradient)


class CountingSource(SourceModel):
    """Scores by a linear layer and keeps what it answered; ``hidden``: refuses to be part of a graph."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.layer = nn.Linear(3 * 8 * 8, 5)
        self.spec = SourceSpec("counting", (8, 8), tuple("abcde"))
        self.answers: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.layer(images.flatten(1)).log_softmax(1)
        assert not (self.hidden and answer.requires_grad)
        self.answers.append(answer)
        return answer

    @property
    def fingerprint(self) -> str:
        return "counting"


def chain(examples: int, hidden: bool = True) -> tuple[BatchObjective, CountingSource]:
    """A real objective in float64 behind which every image is counted; its mapping learns."""
    source, mapping = CountingSource(hidden), LinearMapping(5, 2, learn=True)
    nn.init.normal_(mapping.weight)
    task = TaskSpec("toy", ("no", "yes"), (4, 4))
    classifier = ReprogrammedClassifier(FrameProgram((8, 8), resolution=2), source, mapping, task).double()
    images, targets = torch.rand(examples, 3, 4, 4, dtype=torch.float64), torch.arange(examples) % 2
    weights = torch.full((examples,), 1 / examples, dtype=torch.float64)
    return BatchObjective(classifier, CrossEntropy(), images, targets, weights, torch.arange(examples)), source
