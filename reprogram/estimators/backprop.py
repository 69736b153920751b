"""The exact gradient of a differentiable source."""

import torch
from torch import Tensor

from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.objective import BatchObjective, Evaluation
from reprogram.types import StepLoss


class Backprop(GradientEstimator):
    """White box: the surrogate is the loss itself, differentiated through the source.

    A batch whose graph does not fit into memory goes through the source part by part. The gradients of the parts are
    added up, and the surrogate is linear in what learns: equal to the loss in value and gradient.
    """

    @property
    def queries_per_example(self) -> int:
        """One forward."""
        return 1

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``."""
        del key
        most = objective.at_once(graph=True)
        if len(objective.weights) > most:
            return _by_parts(objective, most)
        losses, log_probs, scores = objective.evaluate()
        return StepLoss((objective.weights * losses).sum(), losses.detach(), log_probs.detach(), scores.detach())


def _by_parts(objective: BatchObjective, most: int) -> StepLoss:
    learned, answers = objective.learned(), list[Evaluation]()
    gradients = [torch.zeros_like(one) for one in learned]
    for part in objective.split(most):
        found = part.evaluate()
        loss = (part.weights * found.losses).sum()
        for total, gradient in zip(gradients, torch.autograd.grad(loss, learned, materialize_grads=True), strict=True):
            total += gradient
        answers.append(Evaluation(*(one.detach() for one in found)))
    losses, log_probs, scores = (torch.cat(parts) for parts in zip(*answers, strict=True))
    slopes: Tensor = sum((one * slope).sum() for one, slope in zip(learned, gradients, strict=True))  # type: ignore[assignment]
    return StepLoss((objective.weights * losses).sum() + (slopes - slopes.detach()), losses, log_probs, scores)
