"""What is left of an image on its way to an oracle."""

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from reprogram.errors import ConfigError

RESOLUTIONS = {"float": 0.0, "png": 1 / 255, "jpeg": 1 / 255}


def resolution(encoding: str) -> float:
    """The smallest step of a pixel in [0, 1] that the encoding can carry; 0: any.

    Raises:
        ConfigError: If the encoding has no such name.
    """
    if encoding not in RESOLUTIONS:
        raise ConfigError(f"access.encoding: expected one of {', '.join(RESOLUTIONS)}, got '{encoding}'")
    return RESOLUTIONS[encoding]


def encode(images: Tensor, encoding: str, jpeg_quality: int = 90) -> Tensor:
    """Images as the oracle sees them: sent and decoded again.

    Shapes:
        images: [B, 3, H, W] floating, in [0, 1].
        -> [B, 3, H, W], same type and device, in [0, 1].

    Args:
        images: What is sent.
        encoding: ``float``: unchanged; ``png``: rounded to 8 bits; ``jpeg``: 8 bits, and lossy.
        jpeg_quality: 1 (smallest file) to 100 (best).

    Raises:
        ConfigError: If the encoding has no such name.
    """
    if not resolution(encoding):
        return images
    levels = (images * 255).round_()  # in place from here on: canvases are large
    if encoding == "jpeg":
        files = encode_jpeg(list(levels.to("cpu", torch.uint8)), quality=jpeg_quality)
        levels = torch.stack(decode_jpeg(files, mode=ImageReadMode.RGB)).to(images)
    return levels.div_(255)
