"""The interface of every gradient estimator."""

from abc import ABC, abstractmethod

from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class GradientEstimator(ABC):
    """Says how the loss of a batch changes with the program."""

    @abstractmethod
    def step(self, objective: BatchObjective) -> StepLoss:
        """Evaluates the batch; the gradient of the returned surrogate is the (estimated) gradient, at scale 1."""
