"""Where the target image sits on the canvas."""

import pytest
import torch

from reprogram.errors import ConfigError, ShapeError
from reprogram.programs.placement import Placement


def test_an_image_of_the_placed_size_is_copied_exactly() -> None:
    images = torch.rand(2, 3, 4, 6)
    placement = Placement((10, 12), (4, 6), (1, 5))
    canvas = placement(images)
    assert placement.box == (1, 5, 4, 6)
    assert torch.equal(canvas[:, :, 1:5, 5:11], images)
    canvas[:, :, 1:5, 5:11] = 0
    assert not canvas.any()
    assert placement.covered.sum() == 24
    assert placement.covered[0, 0, 1:5, 5:11].all()


@pytest.mark.parametrize(
    ("canvas", "size", "box"),
    [((9, 9), 5, (2, 2, 5, 5)), ((10, 9), (5, 3), (2, 3, 5, 3)), ((8, 8), 8, (0, 0, 8, 8)), ((7, 7), 2, (2, 2, 2, 2))],
)
def test_without_a_position_the_image_is_centred(canvas, size, box) -> None:
    assert Placement(canvas, size).box == box


@pytest.mark.parametrize("position", [(0, 0), (4, 0), (0, 4), (4, 4)])
def test_every_corner_can_be_reached(position: tuple[int, int]) -> None:
    canvas = Placement((10, 10), 6, position)(torch.ones(1, 3, 6, 6))
    row, column = position
    assert canvas[:, :, row : row + 6, column : column + 6].all()
    assert canvas.sum() == 3 * 36


@pytest.mark.parametrize(
    ("size", "position", "key"),
    [
        (11, None, "program.size"),
        ((4, 11), None, "program.size"),
        (0, None, "program.size"),
        (-3, None, "program.size"),
        (6, (5, 0), "program.position"),
        (6, (0, 5), "program.position"),
        (6, (-1, 0), "program.position"),
    ],
)
def test_an_image_beyond_the_canvas_is_refused_by_name(size, position, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Placement((10, 10), size, position)


@pytest.mark.parametrize("side", [28, 1000])
def test_small_and_large_images_are_resized_without_leaving_the_range(side: int) -> None:
    images = (torch.rand(1, 3, side, side) > 0.5).float()
    placed = Placement((64, 64), 48)(images)
    assert placed.shape == (1, 3, 64, 64)
    assert placed.min() >= 0
    assert placed.max() <= 1
    inside = placed[:, :, 8:56, 8:56]
    assert inside.mean() == pytest.approx(images.mean().item(), abs=0.02)
    if side == 1000:  # antialiased: 20 x 20 pixels of noise are averaged, not picked
        assert inside.std() < 0.1


def test_shrinking_by_two_averages_a_constant_and_keeps_a_step_where_it_is() -> None:
    images = torch.zeros(1, 3, 20, 20)
    images[..., 10:] = 1
    placed = Placement((10, 10), 10)(images)
    assert not placed[..., :4].any()
    torch.testing.assert_close(placed[..., 6:], torch.ones(1, 3, 10, 4))


def test_an_image_that_is_not_square_fills_the_box_it_is_given() -> None:
    images = torch.linspace(0, 1, 30).view(1, 1, 1, 30).expand(1, 3, 10, 30)
    placed = Placement((20, 20), (8, 15))(images)[:, :, 6:14, 2:17]
    assert placed.shape == (1, 3, 8, 15)
    assert (placed.diff(dim=3) > 0).all()
    assert placed.std(dim=2).max() < 1e-6


def test_support_marks_the_pixels_that_carry_data() -> None:
    support = torch.ones(6, 6, dtype=torch.bool).triu(1)
    placement = Placement((10, 10), 6, support=support)
    assert torch.equal(placement.covered[0, 0, 2:8, 2:8], support)
    placed = placement(torch.ones(1, 3, 6, 6))
    assert torch.equal(placed[0, 0, 2:8, 2:8], support.float())


def test_a_resized_support_covers_every_pixel_that_data_reaches() -> None:
    support = torch.zeros(6, 6, dtype=torch.bool)
    support[2, 3] = True
    placement = Placement((24, 24), 24, support=support)
    image = torch.zeros(1, 3, 6, 6)
    image[:, :, 2, 3] = 1
    reached = torch.nn.functional.interpolate(image, (24, 24), mode="bilinear", antialias=True)
    assert torch.equal(placement(image), reached)  # nothing of it is cut off
    assert torch.equal(placement.covered, reached[:, :1] > 0)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 6, 6), torch.zeros(1, 1, 6, 6), torch.zeros(1, 3, 6, 6, dtype=torch.uint8)],
    ids=["no-batch", "grey", "bytes"],
)
def test_other_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="Placement: expected floating images"):
        Placement((10, 10), 6)(images)
