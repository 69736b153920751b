"""The border program: everything around the target image is learned, the image itself is untouched."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.basis import Basis
from reprogram.programs.mask_file import embedded_mask, read_mask
from reprogram.programs.placement import Placement


def gain_of(activation: str) -> float:
    """What W is multiplied by within the sigmoid.

    Raises:
        ConfigError: If the activation is neither ``sigmoid`` nor ``tanh``.
    """
    if activation not in ("sigmoid", "tanh"):
        raise ConfigError(f"program.activation: expected sigmoid or tanh, got '{activation}'")
    return 2.0 if activation == "tanh" else 1.0


def default_size(canvas: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the placed image: 3/4 of the canvas."""
    return max(1, canvas[0] * 3 // 4), max(1, canvas[1] * 3 // 4)


class FrameProgram(InputProgram):
    """Fills every pixel that carries no target data with a learned value in [0, 1].

    canvas = placed + sigmoid(W) on the frame, or (1 + tanh(W)) / 2, which is sigmoid(2 W)    (Elsayed et al., Eq. 1-2)

    W is theta drawn on the canvas by ``Basis``, where D is given too: by default one number a pixel and channel of the
    frame; with a resolution far fewer, which a black box needs.

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Side of the placed target image (pixels), or height and width; ``None``: 3/4 of the canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data: the frame may use the rest of them too.
        activation: ``sigmoid`` or ``tanh``.
        resolution: Rows and columns of theta, or one number for both; ``None``: every pixel of the frame.
        basis: ``grid``, bilinear between the cells of a coarse grid; ``dct``, the lowest frequencies of a DCT-II.
        tied: One value for the three colour channels: a third of D, for grey data.
        mask: Image file of H x W pixels whose bright ones (128 of 255 or more) the program may change, or the same as a
            data URI; ``None``: all. The rest of the frame is black.

    Raises:
        ConfigError: If no pixel is left to the program, the activation or the basis has no such name, the resolution is
            missing or does not fit the canvas, or the mask cannot be used (see ``read_mask``).

    Reference:
        Adversarial Reprogramming of Neural Networks, Elsayed, Goodfellow, Sohl-Dickstein, ICLR 2019,
        arXiv:1806.11146. Differences: pixels in [0, 1] instead of [-1, 1]; no weight decay by default.
    """

    self_contained = staticmethod(embedded_mask)

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        activation: str = "sigmoid",
        resolution: int | Sequence[int] | None = None,
        basis: str = "grid",
        tied: bool = False,
        mask: str | None = None,
    ) -> None:
        super().__init__()
        self.gain = gain_of(activation)
        self.placement = Placement(canvas, default_size(canvas) if size is None else size, position, support)
        free = ~self.placement.covered
        if not free.any():
            raise ConfigError(
                f"program.size: a target image of {self.placement.size} fills the canvas of {canvas} and leaves no "
                "frame; make it smaller or use program=full"
            )
        free &= read_mask(mask, canvas)
        if not free.any():
            raise ConfigError(
                "program.mask: expected bright pixels on the frame, got them under the target image only, which "
                "a frame leaves as it is; paint others white or use program=full"
            )
        self.basis = Basis(canvas, free, resolution, basis, tied)
        self.theta = nn.Parameter(torch.zeros(self.basis.dimension))

    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Adds the frame to placed images; theta [D] or [B, D] in logits."""
        theta = self.theta if theta is None else theta
        frame: Tensor = self.basis(theta, lambda field: torch.sigmoid(self.gain * field))
        return context[0] + frame
