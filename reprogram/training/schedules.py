"""Learning-rate schedules in units of the whole training, so that no YAML repeats its length."""

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from reprogram.errors import ConfigError


def cosine(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Half a cosine from the full rate to zero over ``total_steps`` steps."""
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps))))


def exponential(optimizer: Optimizer, total_steps: int, final: float = 0.05) -> LRScheduler:
    """Multiplies the rate by the same factor after each step, down to the fraction ``final`` after ``total_steps``.

    Raises:
        ConfigError: If ``final`` is outside (0, 1].
    """
    if not 0 < final <= 1:
        raise ConfigError(f"scheduler.final: expected a fraction of the first rate in (0, 1], got {final}")
    return LambdaLR(optimizer, lambda step: final ** min(1.0, step / total_steps))


def multistep(
    optimizer: Optimizer, total_steps: int, milestones: Sequence[float] = (0.5, 0.72), gamma: float = 0.1
) -> LRScheduler:
    """Multiplies the rate by ``gamma`` at each milestone, a fraction of the training (ILM-VP: 0.5 and 0.72).

    Raises:
        ConfigError: If a milestone is outside (0, 1).
    """
    if not all(0 < milestone < 1 for milestone in milestones):
        raise ConfigError(f"scheduler.milestones: expected fractions of the training in (0, 1), got {list(milestones)}")
    return LambdaLR(optimizer, lambda step: gamma ** sum(step >= milestone * total_steps for milestone in milestones))
