"""Files to pixels: a source gets them as they are, a classifier resized."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import encode_jpeg, encode_png

from reprogram.data.pixels import read_image
from reprogram.errors import DataError
from reprogram.serving.image_files import decode
from reprogram.serving.model import Facts
from reprogram.sources.encoding import encode

SOURCE = Facts("toy", ("a", "b"), (24, 40), "log_probabilities", "abc")
RUN = Facts("toy", ("a", "b"), (24, 40), "probabilities", "abc", resizes=True)


def saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def levels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 24, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_a_png_arrives_exactly() -> None:
    assert np.array_equal(decode(encode_png(levels()).numpy().tobytes(), SOURCE), levels().numpy())


def test_a_jpeg_arrives_as_a_black_box_in_this_process_would_see_it() -> None:
    images = levels()[None].float() / 255
    expected = encode(images, "jpeg", 80)[0]
    found = torch.from_numpy(decode(encode_jpeg(levels(), quality=80).numpy().tobytes(), SOURCE))
    assert torch.equal(found.float().div_(255), expected)
    assert not torch.equal(found, levels())


def test_grey_files_get_three_channels() -> None:
    grey = Image.fromarray(levels()[0].numpy())
    found = decode(saved(grey, "PNG"), SOURCE)
    assert found.shape == (3, 24, 40)
    assert (found == found[0]).all()


def test_a_source_takes_its_own_size_only() -> None:
    with pytest.raises(DataError, match=r"expected an image of 24x40 pixels \(height, width\), got 40x24"):
        decode(saved(Image.new("RGB", (24, 40)), "PNG"), SOURCE)


def test_a_classifier_takes_any_size_by_the_rule_of_its_data(tmp_path) -> None:
    picture = Image.fromarray(levels().permute(1, 2, 0).numpy()).resize((101, 67))
    for kind in ("PNG", "JPEG"):
        (tmp_path / "image").write_bytes(saved(picture, kind))
        assert np.array_equal(
            decode((tmp_path / "image").read_bytes(), RUN), read_image(tmp_path / "image", (24, 40)).numpy()
        )


@pytest.mark.parametrize("facts", [SOURCE, RUN], ids=["source", "run"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "expected a PNG or JPEG file, got 0 bytes"),
        (b"<html>not found</html>", "expected a PNG or JPEG file, got 22 bytes"),
        (saved(Image.new("RGB", (40, 24)), "GIF"), "expected a PNG or JPEG file"),
        (encode_png(levels()).numpy().tobytes()[:900], "the image cannot be read"),
    ],
    ids=["empty", "page", "gif", "cut"],
)
def test_what_cannot_be_read_is_refused(file: bytes, message: str, facts: Facts) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode(file, facts)
    assert "BytesIO object" not in str(caught.value)
