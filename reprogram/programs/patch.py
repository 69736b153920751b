"""The patch program: a learned offset on a small part of the canvas, always in one place or anywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reprogram.errors import ConfigError
from reprogram.programs.additive import add_offset, expect_bounds, place_on_grey
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.basis import Basis
from reprogram.programs.placement import Placement

_PRIME = 2**31 - 1
_FACTOR = 48271


class PatchProgram(InputProgram):
    """Adds a bounded offset to the h x w pixels of a patch, and leaves all others as they are.

    canvas = clip(placed + strength * tanh(W) on the patch, 0, 1), mid-grey where no target data lies

    W is theta drawn on the patch by ``Basis``, as if the patch were a canvas: by default D = 3 h w.

    A random patch lies in a place that follows from the pixels of the target image, rounded to 8 bits, and from nothing
    else: over many images it is everywhere, but an image has the same place in every batch, epoch, process and run. So
    equal images stay equal, and the store of a paid source answers the second one.

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Side of the placed target image (pixels), or height and width; ``None``: the whole canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data.
        patch: Side of the patch (pixels), or height and width; ``None``: a quarter of the canvas.
        at: ``fixed``, or ``random``: anywhere on the canvas.
        corner: Row and column of the top left corner of a fixed patch; ``None``: that of the canvas.
        strength: Largest offset of a pixel, in units of the pixel range, in (0, 1].
        max_norm: Largest Euclidean norm of the offset over all pixels and channels, likewise; ``None``: unbounded.
        resolution: Rows and columns of theta, or one number for both; ``None``: every pixel of the patch.
        basis: ``grid``, bilinear between the cells of a coarse grid; ``dct``, the lowest frequencies of a DCT-II.
        tied: One value for the three colour channels: a third of D, for grey data.

    Raises:
        ConfigError: If the patch does not lie within the canvas, ``at`` is neither, a random patch has a corner, the
            strength is outside (0, 1], the norm is not above 0, the basis has no such name, or the resolution is
            missing or does not fit the patch.

    Reference:
        The fixed and the random patch of Exploring Visual Prompts for Adapting Large-Scale Models, Bahng, Jahanian,
        Sankaranarayanan, Isola, 2022, arXiv:2203.17274. Differences: the offset is bounded and the result clipped, so
        that it remains an image, while the authors add W itself, after the normalisation; W starts at zero instead of
        N(0, 1); the authors draw one random place for each batch at each forward, and never the last row and column.
        Their code has a side of 30 for all kinds of prompt at 224 x 224; a quarter is 56.
    """

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        patch: int | Sequence[int] | None = None,
        at: str = "fixed",
        corner: Sequence[int] | None = None,
        strength: float = 1.0,
        max_norm: float | None = None,
        resolution: int | Sequence[int] | None = None,
        basis: str = "grid",
        tied: bool = False,
    ) -> None:
        super().__init__()
        expect_bounds(strength, max_norm)
        if at not in ("fixed", "random"):
            raise ConfigError(f"program.at: expected fixed or random, got '{at}'")
        self.random, self.strength, self.max_norm = at == "random", strength, max_norm
        self.placement = Placement(canvas, canvas if size is None else size, position, support)
        self.patch = _sides(canvas, patch)
        self.corner = _corner(canvas, self.patch, corner, self.random)
        self.basis = Basis(self.patch, torch.ones(1, 1, *self.patch, dtype=torch.bool), resolution, basis, tied)
        self.theta = nn.Parameter(torch.zeros(self.basis.dimension))

    def context(self, images: Tensor) -> Context:
        """Places images on mid-grey; for a random patch also finds its place.

        Shapes:
            images: [B, 3, h, w] floating, in [0, 1] -> ([B, 3, H, W],), random: and [B, 2] int64, row and column of the
            patch's top left corner.
        """
        placed = place_on_grey(self.placement, images)
        return (placed, self._places(images)) if self.random else (placed,)

    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Adds the patch to placed images; theta [D] or [B, D]."""
        theta = self.theta if theta is None else theta
        offset: Tensor = self.strength * self.basis(theta, torch.tanh)
        height, width = self.placement.canvas
        if self.random:
            offset = self._moved(offset, context[1])
        else:
            (top, left), (rows, columns) = self.corner, self.patch
            offset = pad(offset, (left, width - left - columns, top, height - top - rows))
        return add_offset(context[0], offset, self.max_norm)

    def _moved(self, offset: Tensor, places: Tensor) -> Tensor:
        """Sets patches [1 or B, 3, h, w] on empty canvases, each in its place [B, 2]: -> [B, 3, H, W]."""
        height, width = self.placement.canvas
        rows, columns = (torch.arange(side, device=places.device) for side in self.patch)
        index = (places[:, :1, None] + rows[:, None]) * width + (places[:, 1:, None] + columns)  # [B, h, w]
        shape = (len(places), 3, index[0].numel())
        index = index.view(len(places), 1, -1).expand(shape)
        empty = offset.new_zeros(len(places), 3, height * width)
        moved = empty.scatter(2, index, offset.flatten(2).expand(shape))
        return moved.view(len(places), 3, height, width)

    def _places(self, images: Tensor) -> Tensor:
        """Hashes images [B, 3, h, w] in [0, 1] to places of the patch: -> [B, 2] int64.

        A weighted sum of the pixels modulo a prime, spread by one more product: whole numbers only, so that neither the
        device nor the order of summation matters.
        """
        pixels = (images * 255).round().flatten(1).to(torch.int32)
        number = torch.arange(1, pixels.shape[1] + 1, device=images.device) % _PRIME
        weights = (number * _FACTOR % _PRIME).square() % _PRIME >> 8  # 23 bits: their product with a pixel fits in 31
        hashed = (pixels * weights.to(torch.int32)).sum(1, dtype=torch.int64) % _PRIME
        rows, columns = (side - small + 1 for side, small in zip(self.placement.canvas, self.patch, strict=True))
        place = (hashed + 1) * _FACTOR % _PRIME * _FACTOR % _PRIME % (rows * columns)
        return torch.stack([place // columns, place % columns], dim=1)


def _sides(canvas: tuple[int, int], patch: int | Sequence[int] | None) -> tuple[int, int]:
    """Height and width of the patch."""
    if patch is None:
        return max(1, canvas[0] // 4), max(1, canvas[1] // 4)
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if len(sides) != 2 or not all(1 <= small <= side for small, side in zip(sides, canvas, strict=True)):
        raise ConfigError(
            f"program.patch: expected 1 to {canvas[0]} rows and 1 to {canvas[1]} columns (the canvas), got {patch}; "
            "set one number, [rows, columns], or null for a quarter of the canvas"
        )
    return sides


def _corner(
    canvas: tuple[int, int], patch: tuple[int, int], corner: Sequence[int] | None, random: bool
) -> tuple[int, int]:
    """Row and column of a fixed patch."""
    if corner is None:
        return 0, 0
    if random:
        raise ConfigError(f"program.corner: expected null for a random patch, got {list(corner)}; set program.at=fixed")
    found = tuple(corner)
    if len(found) != 2 or not all(
        0 <= first <= side - small for first, side, small in zip(found, canvas, patch, strict=True)
    ):
        raise ConfigError(
            f"program.corner: expected a row of 0 to {canvas[0] - patch[0]} and a column of 0 to "
            f"{canvas[1] - patch[1]} for a patch of {patch[0]}x{patch[1]}, got {list(corner)}"
        )
    return found
