"""Which pixels a program may change, drawn by hand: an image file, or the same as a data URI."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.types import SourceSpec, TaskSpec

_PREFIX = "data:image/png;base64,"


def read_mask(mask: str | None, canvas: tuple[int, int]) -> Tensor:
    """Reads which pixels of the canvas may be changed: those whose luminance is 128 of 255 or more.

    Args:
        mask: Image file (grey, colour or 1 bit; transparent pixels count as black), or a data URI of one; ``None``: all
            pixels of the canvas.
        canvas: Height and width of the canvas, which the image must have.

    Returns:
        Boolean [1, 1, H, W].

    Raises:
        ConfigError: If the image cannot be read, has another size, or has no bright pixel.
    """
    if mask is None:
        return torch.ones(1, 1, *canvas, dtype=torch.bool)
    name = f"{mask[:30]}..." if mask.startswith("data:") else f"'{mask}'"
    try:
        with Image.open(io.BytesIO(_decoded(mask)) if mask.startswith("data:") else Path(mask).expanduser()) as image:
            bright = torch.from_numpy(_luminance(image) >= 128)
    except Exception as error:  # decoders raise whatever they like on broken bytes
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise ConfigError(
            f"program.mask: expected an image of {canvas[0]} x {canvas[1]} pixels (height x width of the canvas), got "
            f"{name}, which cannot be read ({reason}); set program.mask to a PNG file, or to null (a run that was "
            "begun has its mask: resume=RUN_DIR)"
        ) from error
    if tuple(bright.shape) != tuple(canvas):
        raise ConfigError(
            f"program.mask: expected {canvas[0]} x {canvas[1]} pixels (height x width of the canvas), got "
            f"{bright.shape[0]} x {bright.shape[1]} in {name}; draw it at the size of the canvas"
        )
    if not bright.any():
        raise ConfigError(
            f"program.mask: expected bright pixels (128 of 255 or more) where the program may change the canvas of "
            f"{canvas[0]} x {canvas[1]} pixels, got none in {name}; paint them white"
        )
    return bright[None, None]


def embedded_mask(block: dict[str, Any], source: SourceSpec, task: TaskSpec) -> dict[str, Any]:
    """A program's ``self_contained``: its block, with a data URI of a 1-bit PNG in place of the path of a mask.

    Raises:
        ConfigError: If the mask cannot be used (see ``read_mask``).
    """
    del task
    mask = block.get("mask")
    if not isinstance(mask, str) or mask.startswith("data:"):
        return block
    bright, buffer = read_mask(mask, source.image_size)[0, 0], io.BytesIO()
    Image.fromarray(bright.numpy()).save(buffer, "PNG", optimize=True)
    return {**block, "mask": _PREFIX + base64.b64encode(buffer.getvalue()).decode()}


def _decoded(uri: str) -> bytes:
    """What a data URI holds."""
    header, _, content = uri.partition(",")
    if not header.endswith(";base64"):
        raise ValueError(f"expected {_PREFIX}...")
    return base64.b64decode(content, validate=True)


def _luminance(image: Image.Image) -> NDArray[Any]:
    """Luminance [h, w] in 0 to 255 of an image of any mode."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint32) // 257
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} (32 bits a pixel) has no stated range; store 8 bits")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours)
    return np.asarray(image.convert("L"))
