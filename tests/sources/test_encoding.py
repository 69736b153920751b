"""Images as they arrive at an oracle."""

import pytest
import torch
from torchvision.io import ImageReadMode, decode_jpeg, decode_png, encode_jpeg, encode_png

from reprogram.errors import ConfigError
from reprogram.sources.encoding import encode, resolution


def test_floats_arrive_as_they_are() -> None:
    images = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    assert encode(images, "float") is images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_png_rounds_to_eight_bits_as_the_codec_does(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 8, 10, dtype=dtype)
    images[0, 0, 0, :3] = torch.tensor([0.0, 1.0, 0.4999 / 255], dtype=dtype)
    seen = encode(images, "png")
    files = [encode_png((image * 255).round().to(torch.uint8)) for image in images]
    assert torch.equal(seen, torch.stack([decode_png(file) for file in files]).to(dtype) / 255)
    assert seen[0, 0, 0, :3].tolist() == [0.0, 1.0, 0.0]
    assert (seen - images).abs().max() <= 0.5 / 255 + 1e-7
    assert torch.equal(encode(seen, "png"), seen)


@pytest.mark.parametrize("quality", [10, 95])
def test_jpeg_is_what_the_codec_makes_of_the_rounded_image(quality: int) -> None:
    images = torch.rand(2, 3, 16, 17)
    file = encode_jpeg((images[1] * 255).round().to(torch.uint8), quality)
    seen = encode(images, "jpeg", quality)
    assert seen.shape == images.shape
    assert seen.dtype == images.dtype
    assert torch.equal(seen[1], decode_jpeg(file, ImageReadMode.RGB).float() / 255)
    assert seen.min() >= 0
    assert seen.max() <= 1


def test_jpeg_loses_less_at_a_higher_quality() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).contiguous()
    losses = [(encode(ramp, "jpeg", quality) - ramp).abs().mean() for quality in (5, 50, 100)]
    assert losses[0] > 2 * losses[1] > 2 * losses[2] > 0
    assert losses[2] < 1 / 255


def test_the_smallest_step_that_arrives_is_known() -> None:
    assert [resolution(name) for name in ("float", "png", "jpeg")] == [0.0, 1 / 255, 1 / 255]
    grey = torch.full((1, 3, 8, 8), 100 / 255)
    for name in ("png", "jpeg"):
        assert torch.equal(encode(grey, name), encode(grey + 0.4 * resolution(name), name))
    assert not torch.equal(encode(grey, "png"), encode(grey + resolution("png"), "png"))


def test_an_unknown_encoding_is_refused() -> None:
    for call in (lambda: resolution("webp"), lambda: encode(torch.zeros(1, 3, 2, 2), "webp")):
        with pytest.raises(ConfigError, match=r"access\.encoding: expected one of float, png, jpeg, got 'webp'"):
            call()
