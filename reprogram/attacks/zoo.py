"""ZOO: an adversarial program for a single image, learned from differences along its coordinates."""

import torch
from torch import Tensor

from reprogram.attacks.base import QueryAttack, expect_at_least, expect_strengths
from reprogram.attacks.questions import Questions
from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import ConfigError
from reprogram.estimators.base import StepKey
from reprogram.estimators.coordinate import Coordinate
from reprogram.losses import Loss
from reprogram.mappings.base import LabelMapping
from reprogram.objective import BatchObjective
from reprogram.programs.full import FullProgram
from reprogram.types import TaskSpec


class Margin(Loss):
    """By how much the target class leads: max(s_target - max_other s, 0); zero once another class is ahead."""

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """See ``Loss``."""
        own = scores.gather(1, targets[:, None])
        others = scores.scatter(1, targets[:, None], -torch.inf)
        return (own.squeeze(1) - others.amax(dim=1)).clamp(min=0)


class _Unmapped(LabelMapping):
    """The victim's scores as they are."""

    def forward(self, log_probs: Tensor) -> Tensor:
        """See ``LabelMapping``."""
        return log_probs


class Zoo(QueryAttack):
    """Finds the slope of the margin along a few coordinates of the change at a time, and steps by Adam.

    x' = clip(x + strength * tanh(W), 0, 1), W drawn by theta on the image

    It is the whole-image program around a single image, trained by the ``Coordinate`` estimator to lower the margin:
    2 n queries a step, none besides, because the answers at theta +- h tell a success.

    Args:
        strength: Largest change of a pixel, in (0, 1].
        max_queries: For each image, >= 1.
        resolution: Rows and columns of theta, at most those of the image; ``None``: every pixel.
        num_coordinates: n, drawn at each step, at most as many as there are.
        smoothing: h, in units of theta, > 0.
        lr: Step size of Adam, in units of theta, > 0.
        seed: Of the coordinates.

    Raises:
        ConfigError: If a number is out of range.

    Reference:
        ZOO, Chen et al., AISec 2017, arXiv:1708.03999. Differences: a ball instead of a penalty on the norm, so no
        search over its weight; the coarse grid does not grow finer; coordinates are drawn evenly; kappa is 0.
    """

    name = "zoo"

    def __init__(
        self,
        strength: float,
        max_queries: int = 1000,
        resolution: int | None = 8,
        num_coordinates: int = 8,
        smoothing: float = 0.5,
        lr: float = 1.0,
        seed: int = 0,
    ) -> None:
        (self.strength,) = expect_strengths("attack.strength", [strength])
        self.max_queries = expect_at_least("attack.max_queries", max_queries, 1)
        self.resolution = None if resolution is None else expect_at_least("attack.resolution", resolution, 1)
        self.num_coordinates = expect_at_least("attack.num_coordinates", num_coordinates, 1)
        for key, value in (("smoothing", smoothing), ("lr", lr)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"attack.{key}: expected a number > 0, got {value}")
        self.smoothing, self.lr, self.seed = smoothing, lr, seed

    def search(self, questions: Questions, image: Tensor, label: int, key: int) -> None:
        """See ``QueryAttack``."""
        objective = self._objective(questions, image, label)
        theta = objective.theta
        count = min(self.num_coordinates, len(theta))
        estimator = Coordinate(len(theta), count, self.smoothing, lr=self.lr).to(image.device)
        for step in range(self.max_queries):  # questions end it
            found = estimator.step(objective, StepKey(self.seed, key, step))
            (change,) = torch.autograd.grad(found.surrogate, theta)
            with torch.no_grad():
                theta -= change  # the estimator makes its own steps

    def _objective(self, questions: Questions, image: Tensor, label: int) -> BatchObjective:
        """The margin of the image as a function of a program on it; a grey one has one value for three channels."""
        channels, height, width = image.shape
        size = (height, width)
        resolution = None if self.resolution is None else [min(self.resolution, side) for side in size]
        program = FullProgram(size, strength=self.strength, resolution=resolution, tied=channels == 1)
        task = TaskSpec("one image", tuple(map(str, range(questions.spec.num_classes))), size)  # names may repeat
        classifier = ReprogrammedClassifier(program.to(image.device), questions, _Unmapped(), task)
        whole = torch.ones(1, device=image.device)
        rows = torch.zeros(1, dtype=torch.int64, device=image.device)
        return BatchObjective(classifier, Margin(), image.expand(1, 3, -1, -1), rows + label, whole, rows)
