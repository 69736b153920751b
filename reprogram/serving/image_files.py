"""PNG and JPEG files as they arrive, as pixels."""

from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from reprogram.data.pixels import read_image
from reprogram.errors import DataError
from reprogram.serving.model import Facts

FORMATS = ("PNG", "JPEG")


def decode(file: bytes, facts: Facts) -> NDArray[np.uint8]:
    """One image file as [3, h, w], of the size that the model takes.

    A model that resizes reads files by the rule of ``data.pixels``. A source gets the pixels of the file as they are,
    read by the library that ``sources.encoding`` reads with: the answers are then those of a black box in this process.

    Raises:
        DataError: If it is no PNG or JPEG that can be read, or not of the size of a model that does not resize.
    """
    height, width = facts.image_size
    try:
        with Image.open(BytesIO(file), formats=FORMATS) as opened:  # reads no pixel yet
            size = opened.size
    except Exception as error:  # decoders raise whatever they like on broken bytes
        kind = type(error).__name__
        raise DataError(f"expected a PNG or JPEG file, got {len(file)} bytes of something else ({kind})") from error
    if facts.resizes:
        try:
            pixels = read_image(cast(Path, BytesIO(file)), facts.image_size)  # Pillow takes both
        except DataError as error:
            raise DataError(f"the image cannot be read ({error.__cause__})") from error
    else:
        if size != (width, height):
            raise DataError(f"expected an image of {height}x{width} pixels (height, width), got {size[1]}x{size[0]}")
        try:
            pixels = decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError as error:
            raise DataError(f"the image cannot be read ({error})") from error
        if pixels.dtype != torch.uint8:
            raise DataError("expected an image of 8 bits a channel, got one of 16")
    found: NDArray[np.uint8] = pixels.contiguous().numpy()
    return found
