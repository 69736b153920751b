"""The interface of every input program."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from reprogram.programs.basis import Basis
from reprogram.programs.placement import Placement


class InputProgram(nn.Module, ABC):
    """Turns target images into source images by parameters that gradients, or queries, can learn.

    All learned numbers that can act stand in one flat vector, ``theta``: never one that lies under target data. What
    each of them draws on the canvas is the matter of ``basis``.
    """

    placement: Placement
    basis: Basis
    theta: nn.Parameter

    def context(self, images: Tensor) -> Tensor:
        """Does once per batch what does not depend on theta: places the images on the canvas.

        Shapes:
            images: [B, 3, h, w] floating, in [0, 1] -> [B, 3, H, W], zero outside the target data.
        """
        placed: Tensor = self.placement(images)
        return placed

    @abstractmethod
    def forward(self, context: Tensor, theta: Tensor | None = None) -> Tensor:
        """Composes source images, always in [0, 1].

        Shapes:
            context: [B, 3, H, W] from ``context``.
            theta: [D], or [B, D] with one row per image, in place of the own parameters.
            -> [B, 3, H, W]
        """
