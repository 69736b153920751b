"""Random changes of training images that depend on the example and the epoch, never on the process or the past."""

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError


class Augmentation(nn.Module):
    """Mirrors images and jitters their brightness and contrast; an explicit choice, off unless configured.

    What happens to an example is a function of (seed, epoch, example index), so a resumed run and any number of
    processes see the same images.

    Args:
        horizontal_flip: Whether to mirror left and right with probability 1/2.
        vertical_flip: Whether to mirror top and bottom with probability 1/2.
        brightness: Half-width b of the factor on all pixels, drawn from [1 - b, 1 + b], 0 <= b <= 1.
        contrast: Half-width c of the factor on the distance to the image's mean, drawn likewise.
        seed: Of all draws, >= 0.

    Raises:
        ConfigError: If a half-width is outside [0, 1].
    """

    def __init__(
        self,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        brightness: float = 0.0,
        contrast: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, width in (("brightness", brightness), ("contrast", contrast)):
            if not 0 <= width <= 1:
                raise ConfigError(f"Augmentation: expected {name} in [0, 1], got {width}")
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.brightness = brightness
        self.contrast = contrast
        self.seed = seed

    def forward(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Changed copies of the images.

        Shapes:
            images: [B, C, h, w] in [0, 1], indices: [B] int64 -> [B, C, h, w] in [0, 1].
        """
        draws = _uniform(self.seed, epoch, indices).to(images.dtype)[:, :, None, None, None]  # [4, B, 1, 1, 1]
        if self.horizontal_flip:
            images = torch.where(draws[0] < 0.5, images.flip(-1), images)
        if self.vertical_flip:
            images = torch.where(draws[1] < 0.5, images.flip(-2), images)
        if self.brightness:
            images = images * (1 + self.brightness * (2 * draws[2] - 1))
        if self.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = mean + (images - mean) * (1 + self.contrast * (2 * draws[3] - 1))
        return images.clamp(0.0, 1.0)


def _uniform(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Four numbers in [0, 1) an example, [4, B]: hashed, so the same on every device and without a synchronisation."""
    state = _mix(torch.full_like(indices, seed))
    state = _mix(state + epoch)
    state = _mix(state + indices)
    return torch.stack([_mix(state + draw) >> 8 for draw in range(4)]) / 2.0**24


def _mix(values: Tensor) -> Tensor:
    """A 32-bit integer hash ("lowbias32", C. Wellons, 2018) in int64; the offset keeps 0 from hashing to 0."""
    mask = 0xFFFFFFFF
    values = (values + 0x9E3779B9) & mask
    values = ((values ^ (values >> 16)) * 0x7FEB352D) & mask
    values = ((values ^ (values >> 15)) * 0x846CA68B) & mask
    return values ^ (values >> 16)
