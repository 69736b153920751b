"""The border program: everything around the target image is learned, the image itself is untouched."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError
from reprogram.programs.base import InputProgram
from reprogram.programs.placement import Placement


class FrameProgram(InputProgram):
    """Fills every pixel that carries no target data with a learned value in [0, 1].

    canvas = placed + sigmoid(W) on the frame, or (1 + tanh(W)) / 2, which is sigmoid(2 W)    (Elsayed et al., Eq. 1-2)

    Args:
        canvas: Height and width of the source's input (pixels).
        size: Side of the placed target image (pixels), or height and width; ``None``: 3/4 of the canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data: the frame may use the rest of them too.
        activation: ``sigmoid`` or ``tanh``.

    Raises:
        ConfigError: If no pixel is left to the program, or the activation has no such name.

    Reference:
        Adversarial Reprogramming of Neural Networks, Elsayed, Goodfellow, Sohl-Dickstein, ICLR 2019,
        arXiv:1806.11146. Differences: pixels in [0, 1] instead of [-1, 1]; no weight decay by default.
    """

    index: Tensor

    def __init__(
        self,
        canvas: tuple[int, int],
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        if activation not in ("sigmoid", "tanh"):
            raise ConfigError(f"program.activation: expected sigmoid or tanh, got '{activation}'")
        self.gain = 2.0 if activation == "tanh" else 1.0
        if size is None:
            size = (max(1, canvas[0] * 3 // 4), max(1, canvas[1] * 3 // 4))
        self.placement = Placement(canvas, size, position, support)
        free = ~self.placement.covered.expand(1, 3, *canvas)
        self.register_buffer("index", free.flatten().nonzero().squeeze(1), persistent=False)
        if self.index.numel() == 0:
            raise ConfigError(
                f"program.size: a target image of {self.placement.size} fills the canvas of {canvas} and leaves no "
                "frame; make it smaller or use program=full"
            )
        self.theta = nn.Parameter(torch.zeros(self.index.numel()))

    def forward(self, context: Tensor, theta: Tensor | None = None) -> Tensor:
        """Adds the frame to placed images; theta [D] or [B, D] in logits."""
        values = torch.sigmoid(self.gain * (self.theta if theta is None else theta))
        rows = values.reshape(-1, values.shape[-1])
        flat = rows.new_zeros(rows.shape[0], context[0].numel())
        frame = flat.index_copy(1, self.index, rows).view(-1, *context.shape[1:])
        return context + frame
