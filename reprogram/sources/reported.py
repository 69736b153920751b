"""What an API that reports only a few, rounded scores lets one know of all of them."""

import torch
from torch import Tensor

from reprogram.errors import ConfigError

MAX_DECIMALS = 15
"""More decimals than that are beyond float64."""

LEAST_UNREPORTED = 1e-6
"""Least probability of all unreported classes together, where scores are not rounded."""


def as_reported(log_probs: Tensor, top_k: int | None, decimals: int | None) -> Tensor:
    """Log-probabilities as they can be put together again from the scores that were reported.

    Reported probabilities are rounded; one that rounds to zero is taken for half a unit of the last decimal. What they
    leave over (at least half a unit in all, or 1e-6 unrounded) is spread evenly over the unreported classes, though
    none of these gets more than the smallest reported one. Then all is renormalised.

    Shapes:
        log_probs: [B, K_s] log-probabilities, float32 or float64.
        -> [B, K_s] finite log-probabilities of the same type; ``log_probs`` itself when nothing is limited.

    Args:
        log_probs: What the source knows.
        top_k: How many of the best classes are reported, 1..K_s; ``None``: all.
        decimals: Decimals of a reported probability, 1..15; ``None``: not rounded.

    Raises:
        ConfigError: If ``top_k`` or ``decimals`` is out of range.
    """
    classes = log_probs.shape[1]
    if top_k is not None and not 1 <= top_k <= classes:
        raise ConfigError(f"access.top_k: expected a whole number in 1..{classes} (source classes), got {top_k}")
    if decimals is not None and not 1 <= decimals <= MAX_DECIMALS:
        raise ConfigError(f"access.decimals: expected a whole number in 1..{MAX_DECIMALS}, got {decimals}")
    if top_k is None and decimals is None:
        return log_probs
    reported, best = log_probs.double().exp().topk(top_k or classes, dim=1)
    if decimals is None:
        reported, least = reported.clamp_min(torch.finfo(reported.dtype).tiny), LEAST_UNREPORTED
    else:
        least = 0.5 * 10.0**-decimals
        reported = reported.round(decimals=decimals).clamp_min(least)
    rest = (1 - reported.sum(dim=1, keepdim=True)).clamp_min(least) / max(1, classes - reported.shape[1])
    each = torch.minimum(rest, reported[:, -1:])
    known = each.expand(-1, classes).scatter(1, best, reported)
    return (known / known.sum(dim=1, keepdim=True)).log().to(log_probs.dtype)
