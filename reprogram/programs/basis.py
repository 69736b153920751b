"""What one number of theta draws on the canvas: a pixel, a tent of a coarse grid, or a wave."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError


class Basis(nn.Module):
    """Draws theta on the canvas as a field of H x W values for each of the three channels.

    field[c] = R @ coefficients[c] @ C^T, with functions of the row in R [H, r] and of the column in C [W, s]

    Why so few numbers: the cosine between a gradient and its estimate from q random directions is about
    sqrt(q / (D + q - 1)). At q = 25 it is 0.013 for all pixels of a 224 x 224 canvas (D = 150,528), 0.18 at resolution
    16 (D = 768), and 0.30 if the channels are tied too (D = 256).

    D counts only coefficients whose function is non-zero on a free pixel; the others could never act:

    - no resolution: D = 3 * (free pixels), one number a pixel;
    - ``grid``: D <= 3 r s; bilinear between the centres of r x s cells and constant beyond the outermost ones, as
      ``interpolate(align_corners=False)`` does. A unit coefficient is 1 at the centre of its cell;
    - ``dct``: D <= 3 r s; the r x s lowest frequencies of a DCT-II, orthogonal over the canvas. A unit coefficient
      has a root mean square of 1 over the canvas; the lowest one is the constant 1;
    - tied: a third of these.

    Args:
        canvas: Height H and width W (pixels).
        free: Boolean [1, 1, H, W], true where the program may draw.
        resolution: Rows r and columns s of theta, or one number for both; ``None``: every pixel.
        kind: ``grid`` or ``dct``.
        tied: One value for the three channels.

    Raises:
        ConfigError: If the resolution is below 1 or above the canvas, ``dct`` has none, or the kind has no such name.

    References:
        Random gradient-free minimization of convex functions, Nesterov and Spokoiny, FoCM 2017: the price of D.
        Low Frequency Adversarial Perturbation, Guo, Frank, Weinberger, UAI 2019, arXiv:1809.08758: low frequencies of
        the DCT for attacks by queries. Differences: rectangles r x s, scaled by the root mean square.
    """

    free: Tensor
    index: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        canvas: tuple[int, int],
        free: Tensor,
        resolution: int | Sequence[int] | None = None,
        kind: str = "grid",
        tied: bool = False,
    ) -> None:
        super().__init__()
        if kind not in ("grid", "dct"):
            raise ConfigError(f"program.basis: expected grid or dct, got '{kind}'")
        if resolution is None and kind != "grid":
            raise ConfigError(
                f"program.resolution: expected a number for program.basis={kind}, got null; set program.resolution=16"
            )
        self.by_pixel = resolution is None
        acting = free
        if resolution is not None:
            sides = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
            if len(sides) != 2 or not all(1 <= few <= side for few, side in zip(sides, canvas, strict=True)):
                raise ConfigError(
                    f"program.resolution: expected 1 to {canvas[0]} rows and 1 to {canvas[1]} columns (what is drawn "
                    f"on), got {resolution}; set one number, [rows, columns], or null for every pixel"
                )
            functions = _tents if kind == "grid" else _waves
            rows, columns = (functions(side, few).float() for side, few in zip(canvas, sides, strict=True))
            acting = rows.bool().float().T @ free.float() @ columns.bool().float() > 0
            self.register_buffer("free", free, persistent=False)
            self.register_buffer("rows", rows, persistent=False)
            self.register_buffer("columns", columns, persistent=False)
        acting = acting.expand(1, 1 if tied else 3, -1, -1)
        self.shape = acting.shape[1:]
        self.register_buffer("index", acting.flatten().nonzero().squeeze(1), persistent=False)
        self.dimension = self.index.numel()

    def forward(self, theta: Tensor, squash: Callable[[Tensor], Tensor]) -> Tensor:
        """Draws squash(field) on the free pixels, and zero on all others.

        Shapes:
            theta: [D], or [B, D].
            squash: Elementwise; by pixel it is applied to theta itself, which is shorter than the canvas.
            -> [1, 3, H, W], or [B, 3, H, W]; tied channels share memory.
        """
        if self.by_pixel:
            field = self._spread(squash(theta))
        else:
            rows, columns = self.rows.to(theta.dtype), self.columns.to(theta.dtype)
            field = squash(rows @ (self._spread(theta) @ columns.T)) * self.free
        return field.expand(-1, 3, -1, -1)

    def _spread(self, values: Tensor) -> Tensor:
        """Sets values [D] or [B, D] on the grid of coefficients, zero where none can act: -> [B, 1 or 3, r, s]."""
        values = values.reshape(-1, values.shape[-1])
        if self.dimension < self.shape.numel():
            values = values.new_zeros(len(values), self.shape.numel()).index_copy(1, self.index, values)
        return values.view(len(values), *self.shape)


def _tents(side: int, cells: int) -> Tensor:
    """Linear interpolation between the centres of cells: -> [side, cells] in [0, 1].

    In units of 1 / (2 side) cells all positions are whole numbers, so what is zero is exactly zero.
    """
    pixels = ((2 * torch.arange(side) + 1) * cells).clamp(side, (2 * cells - 1) * side)
    centres = (2 * torch.arange(cells) + 1) * side
    return (2 * side - (pixels[:, None] - centres).abs()).clamp(min=0) / (2 * side)


def _waves(side: int, functions: int) -> Tensor:
    """Lowest frequencies of a DCT-II: -> [side, functions], sqrt(2) cos(pi (2n + 1) k / (2 side)), and 1 at k = 0."""
    phase = torch.outer(2 * torch.arange(side) + 1, torch.arange(functions))  # in units of pi / (2 side)
    waves = 2**0.5 * torch.cos(phase.double() * (torch.pi / (2 * side)))
    waves[:, 0] = 1
    return waves.masked_fill(phase % (2 * side) == side, 0)  # the cosine of pi / 2 is 6e-17 to a computer
