"""Masks drawn by hand: any image of the canvas' size, from a file or as a data URI."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reprogram.errors import ConfigError
from reprogram.programs.mask_file import embedded_mask, read_mask
from reprogram.types import SourceSpec, TaskSpec

TASK = TaskSpec("toy", ("a", "b"), (4, 4))


def canvas(height: int, width: int) -> SourceSpec:
    return SourceSpec("toy", (height, width), ("one", "two"))


SHAPE = torch.zeros(6, 9, dtype=torch.bool)
SHAPE[1:4, 2:8] = True
SHAPE[5, 0] = True


def saved(folder: Path, image: Image.Image, name: str = "mask.png") -> str:
    image.save(folder / name)
    return str(folder / name)


def grey(dark: int = 0, bright: int = 255) -> Image.Image:
    return Image.fromarray(np.where(SHAPE.numpy(), bright, dark).astype(np.uint8))


def transparent() -> Image.Image:
    image = Image.new("RGBA", (9, 6), (255, 255, 255, 255))
    image.putalpha(grey())
    return image


@pytest.mark.parametrize(
    "image",
    [
        grey(),
        grey(127, 128),
        grey().convert("RGB"),
        grey().convert("1"),
        grey().convert("P"),
        Image.merge("RGB", [Image.new("L", (9, 6), 0), grey(), Image.new("L", (9, 6), 255)]),  # cyan on blue
        transparent(),
        Image.fromarray(np.where(SHAPE.numpy(), 40000, 300).astype(np.uint16)),
    ],
    ids=["grey", "edge", "RGB", "bits", "palette", "cyan", "RGBA", "16 bits"],
)
def test_bright_pixels_of_any_image_are_the_mask(tmp_path: Path, image: Image.Image) -> None:
    mask = read_mask(saved(tmp_path, image), (6, 9))
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 1, 6, 9)
    assert torch.equal(mask[0, 0], SHAPE)


def test_without_a_mask_every_pixel_is_free() -> None:
    assert read_mask(None, (2, 3)).tolist() == [[[[True] * 3] * 2]]


def test_an_embedded_mask_needs_no_file_and_is_small(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (224, 224), (200, 200, 200)), "mask.bmp")
    block = {"_target_": "some.program", "mask": path, "size": 3}
    embedded = embedded_mask(block, canvas(224, 224), TASK)
    Path(path).unlink()
    assert embedded == {**block, "mask": embedded["mask"]}
    assert embedded["mask"].startswith("data:image/png;base64,")
    assert len(embedded["mask"]) < 500
    assert read_mask(embedded["mask"], (224, 224)).all()
    assert embedded_mask(embedded, canvas(224, 224), TASK) == embedded
    small = embedded_mask({"mask": saved(tmp_path, grey())}, canvas(6, 9), TASK)
    assert torch.equal(read_mask(small["mask"], (6, 9))[0, 0], SHAPE)


def test_a_block_without_a_mask_stays_as_it_is() -> None:
    for block in ({"size": 3}, {"mask": None}):
        assert embedded_mask(block, canvas(6, 9), TASK) == block


def test_another_size_is_refused_with_the_right_one(tmp_path: Path) -> None:
    path = saved(tmp_path, grey())
    for use in (lambda: read_mask(path, (9, 6)), lambda: embedded_mask({"mask": path}, canvas(9, 6), TASK)):
        with pytest.raises(
            ConfigError, match=r"program\.mask: expected 9 x 6 pixels .*got 6 x 9 in '.*mask\.png'; draw"
        ):
            use()


def test_a_dark_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"program\.mask: expected bright pixels .*6 x 9.*paint them white"):
        read_mask(saved(tmp_path, grey(bright=127)), (6, 9))


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("missing.png", "'missing.png', which cannot be read .no such file"),
        (".", "cannot be read"),
        (__file__, "cannot be read"),
        ("data:image/png;base64,not base64!", "cannot be read"),
        ("data:image/png;base64," + base64.b64encode(b"no image").decode(), "cannot be read"),
        ("data:text/plain,hello", r"expected data:image/png;base64,\.\.\."),
    ],
)
def test_what_is_no_image_is_refused(mask: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"program\.mask: expected an image of 6 x 9 pixels") as caught:
        read_mask(mask, (6, 9))
    caught.match(reason)
    caught.match("set program.mask to a PNG file, or to null")


def test_a_mask_without_a_stated_range_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(SHAPE.numpy().astype(np.float32)), "mask.tiff")
    with pytest.raises(ConfigError, match="no stated range"):
        read_mask(path, (6, 9))
