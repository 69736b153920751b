"""Activation checkpointing: a block's inner results are computed twice instead of kept."""

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from reprogram.errors import ConfigError


def checkpoint_blocks(network: nn.Module) -> None:
    """Rewrites a network so that its backward recomputes each of its blocks.

    A block is a member of a ``Sequential`` or ``ModuleList`` that has layers of its own, such as one of ResNet's or of
    a transformer; one that lies within another block is part of it.

    Raises:
        ConfigError: If the network has no blocks.
    """
    if not _wrap(network):
        raise ConfigError("source.checkpointing: expected a network made of blocks, got none; set it to false")


def _wrap(module: nn.Module) -> int:
    wrapped = 0
    for name, child in list(module.named_children()):
        if isinstance(module, nn.Sequential | nn.ModuleList) and any(child.children()):
            setattr(module, name, _Recomputed(child))
            wrapped += 1
        else:
            wrapped += _wrap(child)
    return wrapped


class _Recomputed(nn.Module):
    """A block whose inner results are not kept for the backward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """That of the block."""
        return checkpoint(self.block, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
