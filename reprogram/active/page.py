"""The page that a person labels on: one HTML file that needs nothing beside it and asks nothing of a network."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image
from torch import Tensor

from reprogram.active.sheet import check_ids, skip_word
from reprogram.errors import ConfigError, DataError, ShapeError

_STAGE, _THUMB = 320, 96  # longest side on the page in CSS pixels; small images fill it in whole steps
_SMALL = 256  # longest side of an image whose pixels are shown as squares


def write_page(
    path: Path,
    ids: Sequence[str],
    images: Tensor,
    class_names: Sequence[str],
    title: str,
    facts: Mapping[str, str],
    groups: Sequence[str] | None = None,
) -> None:
    """Writes the page, and its folder where there is none; what it saves is a sheet for ``read_sheet``.

    A person's choices are kept by the browser, not in the file, so a page may be written again: at the same path, with
    the same images, ids and classes, it goes on with the choices made so far. Another page never sees them.

    Args:
        path: The HTML file; an older one is replaced. It holds the images: it may lie only where the data may.
        ids: One for each image, in the order of the sheet.
        images: uint8.
        class_names: One button each, nine or ten of them with a key.
        title: Heading.
        facts: Further lines about the task, by their name.
        groups: Patient, lesion or subject of each image, shown beside its id; ``None``: unknown.

    Shapes:
        images: [N, C, h, w], C = 1 or 3, N >= 1.

    Raises:
        ShapeError: If the images are not of that kind, or their number is not that of the ids and groups.
        ConfigError: If there is no class.
        DataError: If ids are refused by ``check_ids``, or the file cannot be written.
    """
    check_ids(ids)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ShapeError(f"page: expected uint8 images [N, 1 or 3, h, w], got {images.dtype} {list(images.shape)}")
    if len(ids) != len(images) or (groups is not None and len(groups) != len(images)):
        counts = f"{len(images)} images, {len(ids)} ids" + ("" if groups is None else f", {len(groups)} groups")
        raise ShapeError(f"page: expected an id and a group for each image, got {counts}")
    if not class_names:
        raise ConfigError("page: expected at least one class name, got none")
    pictures = [_png(image) for image in images]
    height, width = images.shape[-2:]
    side = max(height, width)
    skip = skip_word(class_names)
    keys, skip_key = _keys(class_names)
    text = _template().render(
        title=title,
        facts=facts,
        classes=class_names,
        skip=skip,
        keys=keys,
        skip_key=skip_key,
        cards=list(zip(ids, pictures, groups or [""] * len(ids), strict=True)),
        data={
            "key": _key(path, ids, class_names, pictures),
            "ids": list(ids),
            "classes": list(class_names),
            "groups": None if groups is None else list(groups),
            "skip": skip,
            "keys": keys,
            "skipKey": skip_key if skip else None,
        },
        stage=_shown(height, width, _STAGE),
        thumb=_shown(height, width, _THUMB),
        ratio=width / height,
        small=side <= _SMALL,
        small_thumb=side <= _THUMB,
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the page: {error.strerror}; choose a folder to write to") from error


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _png(image: Tensor) -> str:
    """An image [1 or 3, h, w] as base64 of a PNG file."""
    array = image.cpu().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _key(path: Path, ids: Sequence[str], class_names: Sequence[str], pictures: Sequence[str]) -> str:
    """What the browser keeps the choices under: two pages never share it, and it survives writing one again."""
    whole = json.dumps([str(path.absolute()), list(ids), list(class_names), list(pictures)])
    return f"reprogram-labels-{hashlib.sha256(whole.encode()).hexdigest()[:24]}"


def _keys(class_names: Sequence[str]) -> tuple[list[str], str]:
    """The key of each class, empty for none, and that of skip: 1 to 9 in order, and 0.

    Where all names begin with different numbers, such as grades, these are the keys (and s skips): who presses 1 for
    grade 1 would otherwise label grade 0.
    """
    found = [re.match(r"\s*(\d+)", name, re.ASCII) for name in class_names]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) == len(class_names):
        return [str(number) if number < 10 else "" for number in numbers], "s"
    return [str(place) if place < 10 else "" for place in range(1, len(class_names) + 1)], "0"


def _shown(height: int, width: int, side: int) -> tuple[int, int]:
    """Width and height on the page: small images are enlarged by a whole factor, so that all their pixels are equal."""
    longest = max(height, width)
    if longest <= side:
        return width * (side // longest), height * (side // longest)
    return max(1, round(width * side / longest)), max(1, round(height * side / longest))
