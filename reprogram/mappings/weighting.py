"""How much each of a target class's own source classes says, and how sharp the scores are."""

import math

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError


def assigned_scores(log_probs: Tensor, assignment: Tensor) -> Tensor:
    """Averages the probabilities of the source classes of each target class.

    Shapes:
        log_probs: [B, K_s]; assignment: [K_t, m] source indices -> [B, K_t] log of the mean probability.
    """
    return log_probs[:, assignment].logsumexp(dim=2) - math.log(assignment.shape[1])


def expect_positive(name: str, value: float) -> None:
    """Refuses a number that float32 scores cannot be divided by.

    Raises:
        ConfigError: If the value is outside [1e-6, 1e6].
    """
    if not 1e-6 <= value <= 1e6:
        raise ConfigError(f"mapping.{name}: expected a number > 0 (1e-6 to 1e6), got {value}")


class Weighting(nn.Module):
    """Scores target classes by a weighted mean of the probabilities of their source classes.

    score[t] = log(sum_j w[t, j] p[a(t, j)]) / T, with w[t] = softmax(logits[t])

    Without learning w is 1/m, T a fixed number, and there is nothing in the state. With learning it starts from there;
    for m = 1 only T is learned.

    Args:
        target_classes: K_t.
        per_class: m, source classes for each target class.
        learn: Whether the logits of w, and log T, are parameters.
        temperature: T, > 0; with ``learn``, its start.

    Raises:
        ConfigError: If the temperature is not above 0.
    """

    logits: nn.Parameter | None
    log_temperature: nn.Parameter | None

    def __init__(self, target_classes: int, per_class: int, learn: bool = False, temperature: float = 1.0) -> None:
        super().__init__()
        expect_positive("temperature", temperature)
        self.temperature = temperature
        self.logits = nn.Parameter(torch.zeros(target_classes, per_class)) if learn and per_class > 1 else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn else None

    def forward(self, log_probs: Tensor, assignment: Tensor) -> Tensor:
        """Scores [B, K_s] log-probabilities by the assignment [K_t, m]: -> [B, K_t]."""
        if self.logits is None:
            scores = assigned_scores(log_probs, assignment)
        else:
            scores = (log_probs[:, assignment] + self.logits.log_softmax(dim=1)).logsumexp(dim=2)
        return scores / (self.temperature if self.log_temperature is None else self.log_temperature.exp())
