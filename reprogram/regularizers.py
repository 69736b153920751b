"""What a program should be like whatever it is for: added to the loss once a batch, with its exact gradient."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError
from reprogram.programs.base import InputProgram

LARGEST = 1e6
"""Weight whose penalty float32 can still hold."""


class Regularizer(nn.Module, ABC):
    """A penalty on the program alone: it knows no example, no class and no source, and costs no query."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0 < weight <= LARGEST:
            raise ConfigError(
                f"regularizer.weight: expected a number > 0 and at most {LARGEST:.0e}, got {weight}; for none, set "
                "regularizer=none"
            )
        self.weight = weight

    def forward(self, program: InputProgram) -> Tensor:
        """The weighted penalty [], >= 0, with graph to theta."""
        return self.weight * self.penalty(program)

    @abstractmethod
    def penalty(self, program: InputProgram) -> Tensor:
        """The penalty [] itself."""


class SquaredNorm(Regularizer):
    """|theta|^2, the sum over all learned numbers.

    Args:
        weight: lambda, > 0. The sum grows with D: a frame of 224 x 224 pixels has 65,856 numbers.

    Raises:
        ConfigError: If the weight is not positive.

    Reference:
        Elsayed et al., ICLR 2019, arXiv:1806.11146, Eq. 3; the weight is that of a re-implementation,
        Prinsphield/Adversarial_Reprogramming. The paper's 0.01 to 0.05 (from memory) leave such a frame grey, since our
        loss is a mean over the batch.
    """

    def __init__(self, weight: float = 5e-7) -> None:
        super().__init__(weight)

    def penalty(self, program: InputProgram) -> Tensor:
        """See the class."""
        return program.theta.square().sum()


class TotalVariation(Regularizer):
    """How rough the program's drawing is: it is what a mid-grey target image turns into.

    TV = mean |canvas[i+1, j] - canvas[i, j]| + mean |canvas[i, j+1] - canvas[i, j]|, in units of the pixel range

    Args:
        weight: > 0.

    Raises:
        ConfigError: If the weight is not positive.

    Reference:
        Nonlinear total variation based noise removal algorithms, Rudin, Osher, Fatemi, Physica D 1992. Differences: the
        anisotropic form, and the mean, so that the size of the canvas does not matter.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def penalty(self, program: InputProgram) -> Tensor:
        """See the class."""
        grey = program.theta.new_full((1, 3, *program.placement.size), 0.5)
        canvas: Tensor = program(program.context(grey))
        down, across = (torch.diff(canvas, dim=axis).abs() for axis in (2, 3))
        return down.sum() / max(1, down.numel()) + across.sum() / max(1, across.numel())  # one row has no differences
