"""The interface of every gradient estimator."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class StepKey(NamedTuple):
    """Says which step this is, the same on every process: random directions are a function of it."""

    seed: int
    epoch: int
    batch: int


class GradientEstimator(nn.Module, ABC):
    """Says how the loss of a batch changes with the program.

    What an estimator carries from step to step are buffers (or extra state), so that a resumed run continues exactly.
    """

    @property
    def owns_update(self) -> bool:
        """Whether the rule makes its own steps: its "gradient" is theta - theta_new, applied by SGD with rate 1."""
        return False

    @property
    def needs_scores(self) -> bool:
        """Whether losses must change a little where the program does; else a source that gives labels alone will do."""
        return True

    @property
    @abstractmethod
    def queries_per_example(self) -> int:
        """Images the source is sent for each example of a batch, known before the step."""

    @abstractmethod
    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """Evaluates the batch; the gradient of the returned surrogate is the (estimated) gradient, at scale 1."""

    def typical_point(self, theta: Tensor) -> Tensor | None:
        """A point [D] as far from theta [D] as this estimator asks about; ``None``: it asks at theta itself."""
        del theta
        return None
