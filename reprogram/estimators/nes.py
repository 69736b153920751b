"""Natural evolution strategies: antithetic Gaussian samples, with or without rank shaping."""

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.directions import Directions
from reprogram.estimators.zeroth_order import batch_losses, combine, evaluate_sides, expect_positive, step_loss
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss


def utilities(losses: Tensor) -> Tensor:
    """What a sample is worth by its rank alone; equal losses are worth the same.

    u_k = max(0, log(n / 2 + 1) - log k) / sum_j max(0, log(n / 2 + 1) - log j) - 1 / n,    k = 1 the lowest of n losses

    Shapes:
        losses: [n] -> [n], sum 0
    """
    ranks = torch.arange(1, len(losses) + 1, device=losses.device, dtype=losses.dtype)
    worth = (ranks.new_tensor(len(losses) / 2 + 1).log() - ranks.log()).clamp(min=0)
    worth = worth / worth.sum() - 1 / len(losses)
    lower = (losses[:, None] > losses).sum(dim=1)
    equal = (losses[:, None] == losses).sum(dim=1)  # a rounding oracle gives many equal losses
    total = torch.cat([worth.new_zeros(1), worth.cumsum(dim=0)])
    return (total[lower + equal] - total[lower]) / equal


class NES(GradientEstimator):
    """Follows the gradient of the loss expected under a Gaussian around theta.

    g = 1 / (2 Q sigma) * sum_q (L(theta + sigma e_q) - L(theta - sigma e_q)) e_q,    e_q ~ N(0, I)

    Costs 2 Q queries an example. Unbiased for linear and quadratic losses. With shaping, the ranks of the 2 Q losses
    of the global batch stand for the losses, g = -1 / sigma * sum_k u_k e_k: no outlier and no scale of the loss acts,
    but g is then no estimate of the gradient.

    Args:
        num_directions: Q >= 1 antithetic pairs.
        smoothing: sigma > 0, standard deviation of each of the program's parameters, in their units.
        shaping: Whether ranks stand for losses.
        per_example: Whether each example has its own samples, else the batch shares them, as shaping needs it.

    Raises:
        ConfigError: If a number is out of range, or both ``shaping`` and ``per_example`` are set.

    Reference:
        Natural Evolution Strategies, Wierstra et al., JMLR 2014, arXiv:1106.4487 (utilities: section 3.1). Antithetic
        pairs: Salimans et al., 2017, arXiv:1703.03864; against classifiers: Ilyas et al., ICML 2018, arXiv:1804.08598.
        Differences: sigma is fixed; equal losses share their utilities.
    """

    def __init__(
        self, num_directions: int = 10, smoothing: float = 0.1, shaping: bool = False, per_example: bool = False
    ) -> None:
        super().__init__()
        if shaping and per_example:
            raise ConfigError("estimator.shaping: ranks are those of the whole batch; set estimator.per_example=false")
        expect_positive("smoothing", smoothing)
        self.directions = Directions("gaussian", num_directions, per_example)
        self.smoothing, self.shaping = smoothing, shaping

    @property
    def needs_scores(self) -> bool:
        """No: it compares points far enough apart for labels to differ."""
        return False

    @property
    def queries_per_example(self) -> int:
        """2 Q: both samples of every pair."""
        return 2 * self.directions.count

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``; the losses are means over all samples."""
        theta = objective.theta.detach()
        directions = self.directions.draw(key, objective.indices, theta)
        answers = evaluate_sides(objective, theta + self.smoothing * torch.cat([directions, -directions]))
        if self.shaping:
            plus, minus = (-utilities(batch_losses(objective, answers.losses)).to(theta))[:, None].chunk(2)
            slopes = (plus - minus) / self.smoothing
        else:
            plus, minus = (objective.weights * answers.losses.detach()).chunk(2)
            slopes = (plus - minus) / (2 * self.directions.count * self.smoothing)
        return step_loss(objective, combine(slopes, directions), answers)

    def typical_point(self, theta: Tensor) -> Tensor:
        """See ``GradientEstimator``."""
        return theta + self.smoothing * self.directions.typical(theta)
