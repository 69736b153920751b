"""How long a training is, by the configuration of its trainer."""

from collections.abc import Mapping
from typing import Any

from reprogram.errors import ConfigError


def batches_of_epoch(trainer: Mapping[str, Any], batches: int) -> int:
    """Batches of an epoch, which may end before it has seen all images.

    Raises:
        ConfigError: If no batch is left.
    """
    limit = trainer["limit_train_batches"]
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if batches < 1:
        raise ConfigError(f"trainer.limit_train_batches: expected at least one batch of an epoch, got {limit}")
    return batches


def total_steps(trainer: Mapping[str, Any], batches: int) -> int | None:
    """Optimiser steps of the whole training, for the learning-rate schedule; ``None``: no epochs or steps bound it."""
    batches = batches_of_epoch(trainer, batches)
    epochs, steps = trainer["max_epochs"], trainer["max_steps"]
    bounds = [steps] if isinstance(steps, int) and steps > 0 else []
    if isinstance(epochs, int) and epochs > 0:
        bounds.append(epochs * -(-batches // trainer["accumulate_grad_batches"]))
    return max(1, min(bounds)) if bounds else None
