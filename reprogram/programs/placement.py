"""Where, and how large, the target image sits on the source canvas."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from reprogram.errors import ConfigError, ShapeError


class Placement(nn.Module):
    """Resizes target images (bilinear, antialiased where they shrink) and sets them on an empty canvas.

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Height and width of the placed image (pixels), or one number for a square.
        position: Row and column (pixels) of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where a target image carries data; ``None``: everywhere.

    Raises:
        ConfigError: If the placed image does not lie within the canvas.
    """

    covered: Tensor

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int],
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
    ) -> None:
        super().__init__()
        for key, pair in (("size", size), ("position", position)):
            if not isinstance(pair, int | None) and len(pair) != 2:
                raise ConfigError(f"program.{key}: expected two whole numbers, got {list(pair)}")
        height, width = (size, size) if isinstance(size, int) else (int(side) for side in size)
        if not (1 <= height <= canvas[0] and 1 <= width <= canvas[1]):
            raise ConfigError(
                f"program.size: expected at most {canvas[0]}x{canvas[1]} pixels (the canvas), got {height}x{width}"
            )
        top, left = ((canvas[0] - height) // 2, (canvas[1] - width) // 2) if position is None else map(int, position)
        if not (0 <= top <= canvas[0] - height and 0 <= left <= canvas[1] - width):
            raise ConfigError(
                f"program.position: an image of {height}x{width} at row {top}, column {left} leaves the canvas of "
                f"{canvas[0]}x{canvas[1]}"
            )
        self.canvas, self.size = canvas, (height, width)
        self.box = (top, left, height, width)
        self.margins = (left, canvas[1] - left - width, top, canvas[0] - top - height)
        self._covers_all = support is None  # of where it is placed
        data = torch.ones(1, 1, height, width) if support is None else self._resize(support[None, None].float())
        self.register_buffer("covered", pad(data > 0, self.margins), persistent=False)  # [1, 1, H, W]

    def forward(self, images: Tensor) -> Tensor:
        """Places images [B, 3, h, w] in [0, 1] on the canvas: -> [B, 3, H, W], zero where no target data lies."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ShapeError(
                f"Placement: expected floating images [B, 3, h, w], got {images.dtype} {list(images.shape)}"
            )
        placed = pad(self._resize(images), self.margins)
        return placed if self._covers_all else placed * self.covered

    def _resize(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) == self.size:
            return images
        shrinks = any(new < old for new, old in zip(self.size, images.shape[2:], strict=True))  # else it is the same
        return interpolate(images, self.size, mode="bilinear", antialias=shrinks, align_corners=False).clamp_(0, 1)
