"""The exact gradient of a differentiable source."""

from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class Backprop(GradientEstimator):
    """White box: the surrogate is the loss itself, differentiated through the source."""

    @property
    def queries_per_example(self) -> int:
        """One forward."""
        return 1

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``."""
        del key
        losses, log_probs, scores = objective.evaluate()
        return StepLoss((objective.weights * losses).sum(), losses.detach(), log_probs.detach(), scores.detach())
