"""The interface of every input program."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from reprogram.programs.placement import Placement

Context = tuple[Tensor, ...]
"""What a program needs to know of a batch, whatever theta is: tensors with one row for each image."""


class InputProgram(nn.Module, ABC):
    """Turns target images into source images by parameters that gradients, or queries, can learn.

    All learned numbers stand in one flat vector, ``theta``, and each of them can act on some image: none lies under
    data that the program leaves as it is. What a number draws on the canvas is the matter of ``Basis``, or of
    ``FlatNetwork``.
    """

    placement: Placement
    theta: nn.Parameter

    def context(self, images: Tensor) -> Context:
        """Does once per batch, not once per query, what does not depend on theta: places the images on the canvas.

        Shapes:
            images: [B, 3, h, w] floating, in [0, 1] -> ([B, 3, H, W],), zero outside the target data.
        """
        return (self.placement(images),)

    @abstractmethod
    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Composes source images, always in [0, 1].

        Shapes:
            context: From ``context``; of some of its rows, if all its tensors are cut alike.
            theta: [D], or [B, D] with one row per image, in place of the own parameters.
            -> [B, 3, H, W]
        """
