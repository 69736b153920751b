"""The exact gradient of a differentiable source."""

from reprogram.estimators.base import GradientEstimator
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


class Backprop(GradientEstimator):
    """White box: the surrogate is the loss itself, differentiated through the source."""

    def step(self, objective: BatchObjective) -> StepLoss:
        """See ``GradientEstimator``."""
        losses, log_probs, scores = objective.evaluate()
        return StepLoss((objective.weights * losses).sum(), losses.detach(), log_probs.detach(), scores.detach())
