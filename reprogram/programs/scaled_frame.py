"""The border program around a target image whose size is learned too."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from reprogram.errors import ConfigError
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.basis import Basis
from reprogram.programs.frame import default_size, gain_of
from reprogram.programs.placement import Placement

_SCALES = 65  # at which it is looked up what the image covers
_FULL = 0.999  # a part of a pixel that could not be seen
_NUDGE = 1e-5  # of r: at exactly 1 all edges lie between pixels, where the gradient is that of neither side


class ScaledFrameProgram(InputProgram):
    """Zooms the placed image by a learned factor r, and fills what it does not cover with learned values in [0, 1].

    canvas = zoom_r(placed) + (1 - zoom_r(covered)) * sigmoid(W), or (1 + tanh(W)) / 2 in place of the sigmoid
    r = lo * (hi / lo)^sigmoid(t + t0), lo = smallest / size, hi = largest / size, with t0 such that r = 1 at t = 0

    The zoom is bilinear, and a pixel that the zoomed image covers in part gets that part of it. Its fixed point is the
    one where the image keeps its share of the margins, so that it lies within the canvas at every r: the centre of a
    centred image, the corner of one in a corner.

    theta is [W, t]: t is one number, the last; W are those of a frame drawn on the canvas by ``Basis``, of every pixel
    that the image does not fully cover at some r. With a resolution they are few, which a black box needs.

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Side of the placed target image before training (pixels), or height and width; ``None``: 3/4 of the
            canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data: the frame may use the rest of them too.
        smallest: Height of the image at its smallest (pixels), the width follows; ``None``: half of size.
        largest: Height of the image at its largest; ``None``: what the canvas holds.
        activation: ``sigmoid`` or ``tanh``.
        resolution: Rows and columns of W, or one number for both; ``None``: every pixel of the frame.
        basis: ``grid``, bilinear between the cells of a coarse grid; ``dct``, the lowest frequencies of a DCT-II.
        tied: One value for the three colour channels: a third of D, for grey data.

    Raises:
        ConfigError: If not smallest < size < largest within the canvas, the activation or the basis has no such name,
            or the resolution is missing or does not fit the canvas.

    Reference:
        Input scaling of AutoVP: An Automated Visual Prompting Framework and Benchmark, Tsao, Hsiung, Chen, Liu, Ho,
        ICLR 2024, arXiv:2310.08381. Differences: r is bounded by a sigmoid, instead of clamped to [0.1, 5], so that the
        image always lies within the canvas; the frame ends where the zoomed image does, to parts of a pixel, instead of
        at whole ones, so that the edge too has a gradient; nothing between image and frame is left black.

    On a GPU PyTorch has no deterministic gradient of this zoom: ``trainer.deterministic`` must be false there.
    """

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        smallest: int | None = None,
        largest: int | None = None,
        activation: str = "sigmoid",
        resolution: int | Sequence[int] | None = None,
        basis: str = "grid",
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.gain = gain_of(activation)
        self.placement = Placement(canvas, default_size(canvas) if size is None else size, position, support)
        low, high = _range(canvas, self.placement.size, smallest, largest)
        self.span = math.log(high / low)
        share = -math.log(low) / self.span  # of the way from low to high, where r = 1
        self.start = math.log(share / (1 - share))  # t0
        self.basis = Basis(canvas, self._uncovered(low, high), resolution, basis, tied)
        self.theta = nn.Parameter(torch.zeros(self.basis.dimension + 1))

    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Zooms placed images and adds the frame; theta [D] or [B, D], all in logits."""
        theta = self.theta if theta is None else theta
        frame: Tensor = self.basis(theta[..., :-1], lambda field: torch.sigmoid(self.gain * field))
        scale = self.scale(theta).reshape(-1)
        uncovered = 1 - self._zoomed(self.placement.covered.to(scale.dtype), scale)
        return (self._zoomed(context[0], scale) + uncovered * frame).clamp(0, 1)

    def scale(self, theta: Tensor) -> Tensor:
        """Reads the factor r of parameters: theta [D] or [B, D] -> [] or [B], between lo and hi."""
        number = theta[..., -1]
        start = torch.full_like(number, self.start)
        return torch.exp(self.span * (torch.sigmoid(number + start) - torch.sigmoid(start)))  # at zero exactly 1

    def _zoomed(self, images: Tensor, scale: Tensor) -> Tensor:
        """Zooms what lies in the box: images [B or 1, C, H, W], factors [N or 1] -> [B or N, C, H, W]."""
        count, (height, width) = max(len(images), len(scale)), self.placement.canvas
        (y, rows), (x, columns) = (self._axis(scale, axis) for axis in (0, 1))
        grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
        zoomed = grid_sample(
            images.expand(count, -1, -1, -1),
            grid.expand(count, -1, -1, -1),
            padding_mode="border",
            align_corners=False,
        )
        return zoomed * (rows[:, None, :, None] * columns[:, None, None, :])

    def _axis(self, scale: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Where pixels are taken from along an axis, in -1 to 1, and how much of each the zoomed box covers: [N, side].

        That a part of a pixel is covered, not all or nothing, tells r at any size which way to go.
        """
        side, first, length = (of[axis] for of in (self.placement.canvas, self.placement.box, self.placement.size))
        pixels = torch.arange(side, device=scale.device, dtype=scale.dtype)
        scale, last, fixed = scale[:, None] * (1 + _NUDGE), first + length, first * side / (side - length)
        centres, fixed_centre = (2 * pixels + 1) / side - 1, 2 * fixed / side - 1
        taken = centres + (centres - fixed_centre) * (1 / scale - 1)
        taken = taken.clamp((2 * first + 1) / side - 1, (2 * last - 1) / side - 1)
        start, end = (edge + (edge - fixed) * (scale - 1) for edge in (first, last))
        covered = torch.minimum(pixels + 1, end) - torch.maximum(pixels, start)
        return taken, covered.clamp(0, 1)

    def _uncovered(self, low: float, high: float) -> Tensor:
        """Which pixels the image does not fully cover at some scale: -> boolean [1, 1, H, W].

        Without a support this is the smallest scale; an image with holes may uncover a pixel at any.
        """
        covered = self.placement.covered.float()
        least = covered
        for scale in torch.logspace(math.log10(low), math.log10(high), _SCALES):
            least = torch.minimum(least, self._zoomed(covered, scale.view(1)))
        return least < _FULL


def _range(
    canvas: tuple[int, int], size: tuple[int, int], smallest: int | None, largest: int | None
) -> tuple[float, float]:
    """The smallest and the largest factor, below and above 1."""
    limit = min(side / length for side, length in zip(canvas, size, strict=True))
    if limit == 1:
        raise ConfigError(
            f"program.size: a target image of {size[0]}x{size[1]} pixels cannot grow on a canvas of "
            f"{canvas[0]}x{canvas[1]}; make it smaller or use program=full"
        )
    if smallest is not None and not 1 <= smallest < size[0]:
        raise ConfigError(
            f"program.smallest: expected 1 to {size[0] - 1} pixels (below the height of program.size), got {smallest}"
        )
    if largest is not None and not 1 < largest / size[0] <= limit:
        room = min(size[0] * side // length for side, length in zip(canvas, size, strict=True))
        raise ConfigError(
            f"program.largest: expected more than {size[0]} (the height of program.size) and at most {room} pixels "
            f"(what the canvas of {canvas[0]}x{canvas[1]} holds), got {largest}"
        )
    return 0.5 if smallest is None else smallest / size[0], limit if largest is None else largest / size[0]
