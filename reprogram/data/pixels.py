"""Stored pixels become 8 bits by one stated rule; nothing is guessed from the values.

- 8-bit values stay, 16-bit values v become round(v * 255 / 65535), floats must lie in [0, 1] and become round(v * 255).
- Files: turned upright by their EXIF tag; transparency (LA, RGBA, palettes) is laid over black; grey, palette and CMYK
  become RGB by Pillow's conversion; 16-bit grey follows the rule above; modes without a stated range (32-bit) are
  refused. Pillow itself reads 16-bit *colour* PNGs by their high bytes.
- A file is resized to the wanted height and width with an antialiasing bilinear filter; its proportions are not kept.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from reprogram.data.base import Images, Rows
from reprogram.data.cache import cached_splits
from reprogram.errors import ConfigError, DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


def to_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Any array of pixels as uint8, by the rule of this module.

    Raises:
        DataError: If the dtype has no stated range or a float lies outside [0, 1].
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257
    if values.dtype.kind != "f":
        raise DataError(f"expected pixels of dtype uint8, uint16 or float in [0, 1], got {values.dtype}; convert them")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise DataError(f"expected float pixels in [0, 1], got {low:g} to {high:g}; scale them or store uint8")
    return np.rint(values * 255.0).astype(np.uint8)


def stack_to_images(values: NDArray[Any]) -> Tensor:
    """Array [N, h, w] or [N, h, w, C], C = 1 or 3, as images uint8 [N, C, h, w].

    Raises:
        DataError: If the shape or the range is another one.
    """
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or values.shape[3] not in (1, 3):
        raise DataError(
            f"expected images [N, h, w] or [N, h, w, 1 or 3], got {list(values.shape)}; put the channels last"
        )
    return torch.from_numpy(np.ascontiguousarray(to_eight_bits(values).transpose(0, 3, 1, 2)))


def height_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from a side or a pair.

    Raises:
        ConfigError: If it is neither, or not positive.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"image_size: expected a side or [height, width] in pixels, got {image_size}")
    return int(size[0]), int(size[1])


def read_image(path: Path, image_size: tuple[int, int]) -> Tensor:
    """One image file as uint8 [3, h, w].

    Raises:
        DataError: If the file is missing, broken, or of a mode without a stated range.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                image = Image.fromarray(to_eight_bits(np.asarray(image).astype(np.uint16)))
            elif image.mode in ("I", "F"):
                raise DataError(f"mode {image.mode} (32 bits a pixel) has no stated range; store 8 or 16 bits")
            elif image.has_transparency_data:
                colours = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours)
            image = image.convert("RGB").resize(image_size[::-1], Image.Resampling.BILINEAR)
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise DataError(f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error}") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """All files below a folder in alphabetical order, through links, but never round and round.

    Args:
        folder: The folder; one that does not exist has no files.
        above: Folders that this one lies in.

    Raises:
        DataError: If a folder may not be read.
    """
    place = folder.resolve()
    if place in above or not folder.is_dir():
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    parts = [files_below(entry, above | {place}) if entry.is_dir() else [entry] for entry in entries]
    return [file for part in parts for file in part]


def read_splits(
    paths: Sequence[Path],
    root: Path,
    rows: Mapping[str, Rows],
    image_size: tuple[int, int],
    skip_unreadable: bool,
    name: str,
) -> dict[str, tuple[Images, list[int]]]:
    """The image files of each split, through the cache: a file that has not changed is decoded only once.

    Args:
        paths: File of each row.
        root: Folder of the data.
        rows: Rows of each split.
        image_size: Height and width (pixels) to resize to.
        skip_unreadable: Whether to leave out missing and broken files (with a logged warning) instead of refusing.
        name: Of the task.

    Returns:
        For each split the images uint8 [M, 3, h, w] and the M rows they belong to.

    Raises:
        DataError: If files cannot be read and may not be skipped; all are counted, the first are named.
    """
    place = root.resolve()
    keys = [str(place / os.path.relpath(path, root)) for path in paths]
    states = [_state(path) for path in paths]
    return cached_splits(
        name, keys, states, lambda row: read_image(paths[row], image_size), image_size, rows, skip_unreadable
    )


def _state(path: Path) -> str:
    """What changes when a file does: whoever keeps size and time while editing cannot keep the time of the change."""
    try:
        facts = path.stat()
    except OSError:
        return "missing"
    return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"
