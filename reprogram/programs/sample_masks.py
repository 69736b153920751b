"""The masked program: one learned pattern for all, and a small network that decides how much of it an image gets."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from reprogram.programs.additive import add_offset, expect_bounds, place_on_grey
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.basis import Basis
from reprogram.programs.flat_network import FlatNetwork
from reprogram.programs.placement import Placement

PATCH = 8  # sides of the patches of one mask value (pixels): three pools halve the canvas
GROUP = 8  # channels of a norm: the narrowest layer is one group


class SampleMasksProgram(InputProgram):
    """Adds a pattern, multiplied for each image by a mask of its own.

    canvas = clip(r(x) + delta * up(f(r(x))), 0, 1)

    r(x) is the placed image, mid-grey where no target data lies. delta is drawn on the canvas by ``Basis``, where its
    number of coefficients is given too: by default one a pixel and channel. f has five 3x3 convolutions with 8, 16, 32,
    64 and 3 output channels, a norm and a ReLU after the first four, and a pool of 2x2 after the first three; ``up``
    repeats each of its values over a patch of 8x8 pixels. A canvas whose sides are no multiples of 8 gets the mask of
    the next larger one, cut at the right and at the bottom.

    theta holds the coefficients of delta, zero at the start, so that the untrained program changes nothing, and then
    the 26,499 weights of f, drawn at random: the gradient reaches them as soon as delta has moved.

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Side of the placed target image (pixels), or height and width; ``None``: the whole canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data.
        max_norm: Largest Euclidean norm of what is added, over all pixels and channels, in units of the pixel range;
            ``None``: unbounded.
        resolution: Rows and columns of delta, or one number for both; ``None``: every pixel.
        basis: ``grid``, bilinear between the cells of a coarse grid; ``dct``, the lowest frequencies of a DCT-II.
        tied: One value of delta for the three colour channels; the mask still has three.
        seed: Of the weights of f at the start.

    Raises:
        ConfigError: If the norm is not above 0, the basis has no such name, or the resolution is missing or does not
            fit the canvas.

    Reference:
        Sample-specific Masks for Visual Reprogramming-based Prompting, Cai et al., ICML 2024, arXiv:2406.03150.
        Differences: the result is clipped, so that it is an image; norms of groups of 8 channels in place of batch
        norms, so that an image does not depend on its batch; f sees pixels in [0, 1], before the normalisation of the
        source; one learning rate for delta and f; f has five layers for every source (six in the paper for vision
        transformers).
    """

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        max_norm: float | None = None,
        resolution: int | Sequence[int] | None = None,
        basis: str = "grid",
        tied: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        expect_bounds(1.0, max_norm)
        self.max_norm = max_norm
        self.placement = Placement(canvas, canvas if size is None else size, position, support)
        self.basis = Basis(canvas, torch.ones_like(self.placement.covered), resolution, basis, tied)
        with torch.device("meta"):  # draws no random numbers
            self.mask = FlatNetwork(_mask_network())
        weights = self.mask.start(torch.Generator().manual_seed(seed))
        self.theta = nn.Parameter(torch.cat([torch.zeros(self.basis.dimension), weights]))

    def context(self, images: Tensor) -> Context:
        """Places images on mid-grey."""
        return (place_on_grey(self.placement, images),)

    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Adds the masked pattern to placed images; theta [D] or [B, D]."""
        theta = self.theta if theta is None else theta
        coefficients, weights = theta.tensor_split([self.basis.dimension], dim=-1)
        delta: Tensor = self.basis(coefficients, lambda field: field)
        height, width = self.placement.canvas
        mask = _patches(self.mask(weights, context[0]))[..., :height, :width]
        return add_offset(context[0], delta * mask, self.max_norm)


def _mask_network() -> nn.Sequential:
    """See the class: [B, 3, H, W] -> [B, 3, ceil(H / 8), ceil(W / 8)]."""
    widths, layers = (3, 8, 16, 32, 64), list[nn.Module]()
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(outputs // GROUP, outputs), nn.ReLU()]
        if number < 3:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))


def _patches(mask: Tensor) -> Tensor:
    """Repeats each value over a patch: [B, 3, h, w] -> [B, 3, 8 h, 8 w]; its gradient is a plain sum."""
    rows, columns = mask.shape[2:]
    patches = mask[:, :, :, None, :, None].expand(-1, -1, -1, PATCH, -1, PATCH)
    return patches.reshape(*mask.shape[:2], PATCH * rows, PATCH * columns)
