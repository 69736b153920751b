"""What all programs that add to the target image share: a grey ground, a bound, and the range of an image."""

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.programs.placement import Placement


def place_on_grey(placement: Placement, images: Tensor) -> Tensor:
    """Places images [B, 3, h, w] on mid-grey [B, 3, H, W]: on black, an offset below zero would have no gradient."""
    canvas: Tensor = placement(images) + 0.5 * ~placement.covered
    return canvas


def add_offset(canvas: Tensor, offset: Tensor, max_norm: float | None = None) -> Tensor:
    """Returns clip(canvas + offset, 0, 1), the offset shortened where it is longer than a bound.

    Shapes:
        canvas: [B, 3, H, W] in [0, 1]; offset: [B, 3, H, W] or [1, 3, H, W], in units of the pixel range
        -> [B, 3, H, W]; ``max_norm`` bounds the Euclidean norm of the offset over all pixels and channels.
    """
    if max_norm is not None:
        norm = torch.linalg.vector_norm(offset, dim=(1, 2, 3), keepdim=True)
        offset = offset * (max_norm / norm.clamp(min=max_norm))
    return (canvas + offset).clamp(0, 1)


def expect_bounds(strength: float, max_norm: float | None) -> None:
    """Refuses bounds that leave no image, or nothing to learn.

    Raises:
        ConfigError: If ``strength`` is outside (0, 1], or ``max_norm`` outside [1e-6, 1e6]: float32 must divide by it.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"program.strength: expected a number in (0, 1], got {strength}")
    if max_norm is not None and not 1e-6 <= max_norm <= 1e6:
        raise ConfigError(
            f"program.max_norm: expected 1e-6 to 1e6 (pixels have the range 0 to 1) or null, got {max_norm}"
        )
