"""The additive program: a learned offset over the whole canvas, target image included."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reprogram.programs.additive import add_offset, expect_bounds, place_on_grey
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.basis import Basis
from reprogram.programs.mask_file import embedded_mask, read_mask
from reprogram.programs.placement import Placement


class FullProgram(InputProgram):
    """Adds a bounded offset to every pixel of the canvas.

    canvas = clip(placed + strength * tanh(W), 0, 1), mid-grey where no target data lies

    W is theta drawn on the canvas by ``Basis``, where D is given too: by default one number a pixel and channel; with a
    resolution far fewer, which a black box needs.

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Side of the placed target image (pixels), or height and width; ``None``: the whole canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data.
        strength: Largest offset of a pixel, in units of the pixel range, in (0, 1].
        max_norm: Largest Euclidean norm of the offset over all pixels and channels, likewise; ``None``: unbounded.
        resolution: Rows and columns of theta, or one number for both; ``None``: every pixel.
        basis: ``grid``, bilinear between the cells of a coarse grid; ``dct``, the lowest frequencies of a DCT-II.
        tied: One value for the three colour channels: a third of D, for grey data.
        mask: Image file of H x W pixels whose bright ones (128 of 255 or more) the program may change, or the same as a
            data URI; ``None``: all. The others stay as placed.

    Raises:
        ConfigError: If the strength is outside (0, 1], the norm is not above 0, the basis has no such name, the
            resolution is missing or does not fit the canvas, or the mask cannot be used (see ``read_mask``).

    Reference:
        The "full watermark" of Sample-specific Masks for Visual Reprogramming-based Prompting, Cai et al., ICML 2024,
        arXiv:2406.03150. Differences: the offset is bounded and the result clipped, so that it remains an image.
    """

    self_contained = staticmethod(embedded_mask)

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        strength: float = 1.0,
        max_norm: float | None = None,
        resolution: int | Sequence[int] | None = None,
        basis: str = "grid",
        tied: bool = False,
        mask: str | None = None,
    ) -> None:
        super().__init__()
        expect_bounds(strength, max_norm)
        self.strength, self.max_norm = strength, max_norm
        self.placement = Placement(canvas, canvas if size is None else size, position, support)
        self.basis = Basis(canvas, read_mask(mask, canvas), resolution, basis, tied)
        self.theta = nn.Parameter(torch.zeros(self.basis.dimension))

    def context(self, images: Tensor) -> Context:
        """Places images on mid-grey."""
        return (place_on_grey(self.placement, images),)

    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Adds the offset to placed images; theta [D] or [B, D]."""
        theta = self.theta if theta is None else theta
        offset: Tensor = self.basis(theta, torch.tanh)
        return add_offset(context[0], self.strength * offset, self.max_norm)
