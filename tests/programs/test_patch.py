"""The patch program: where the patch lies, and that nothing else moves."""

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.programs.patch import PatchProgram


def test_a_fixed_patch_is_the_published_sum_in_its_place_and_nowhere_else() -> None:
    program = PatchProgram((10, 12), patch=(3, 4), corner=(2, 5), strength=0.7)
    images, theta = torch.rand(2, 3, 10, 12), 2 * torch.randn(3 * 3 * 4)
    expected = images.clone()
    expected[:, :, 2:5, 5:9] += 0.7 * torch.tanh(theta).view(3, 3, 4)
    assert len(program.theta) == 36
    torch.testing.assert_close(program(program.context(images), theta), expected.clamp(0, 1))


def test_by_default_a_quarter_of_the_canvas_is_changed_at_its_corner() -> None:
    program, images = PatchProgram((224, 160)), torch.zeros(1, 3, 4, 4)
    changed = program(program.context(images), torch.ones_like(program.theta))[0] > 0
    assert changed[:, :56, :40].all()
    assert changed.sum() == len(program.theta) == 3 * 56 * 40


def test_a_patch_may_lie_around_the_target_image_on_mid_grey() -> None:
    program = PatchProgram((8, 8), 4, patch=2)
    for sign in (-1.0, 1.0):
        canvas = program(program.context(torch.zeros(1, 3, 4, 4)), torch.full((12,), 0.1 * sign))[0]
        moved = 0.5 + sign * torch.tensor(0.1).tanh()
        torch.testing.assert_close(canvas[:, :2, :2], moved.expand(3, 2, 2))
        assert canvas[:, 0, 2:].eq(0.5).all()
        assert not canvas[:, 2:6, 2:6].any()


def random_program(**arguments: object) -> PatchProgram:
    return PatchProgram((20, 18), patch=(5, 3), at="random", **arguments)


def corners(program: PatchProgram, images: torch.Tensor) -> torch.Tensor:
    """Where the patch is seen on the canvas: [B, 2]."""
    context = program.context(images)
    moved = (program(context, torch.full_like(program.theta, 3.0)) != context[0]).any(dim=1)
    rows, columns = moved.any(dim=2).int(), moved.any(dim=1).int()
    assert moved.sum((1, 2)).eq(15).all()
    assert (rows.sum(1).eq(5) & columns.sum(1).eq(3)).all()
    return torch.stack([rows.argmax(1), columns.argmax(1)], dim=1)


def test_a_random_patch_is_the_same_patch_wherever_it_lies() -> None:
    program, images = random_program(), 0.9 * torch.rand(6, 3, 20, 18)
    theta = torch.randn(6, 45)
    canvas = program(program.context(images), theta)
    for image, before, own, (row, column) in zip(canvas, images, theta, corners(program, images), strict=True):
        expected = before.clone()
        expected[:, row : row + 5, column : column + 3] += torch.tanh(own).view(3, 5, 3)
        torch.testing.assert_close(image, expected.clamp(0, 1))


@pytest.mark.parametrize("kind", ["noise", "black and white", "constant", "one pixel"])
def test_random_places_cover_the_canvas_evenly(kind: str) -> None:
    if kind == "noise":
        images = torch.rand(2048, 3, 9, 9)
    elif kind == "black and white":
        images = (torch.rand(2048, 1, 9, 9) > 0.5).float().expand(-1, 3, -1, -1)
    elif kind == "constant":
        images = (torch.arange(256) / 255).view(-1, 1, 1, 1).expand(-1, 3, 9, 9)
    else:
        images = torch.eye(9 * 9).view(-1, 1, 9, 9).expand(-1, 3, -1, -1)
    places = random_program().context(images)[1]
    assert places.min(dim=0).values.tolist() == [0, 0]
    assert places.max(dim=0).values.tolist() == [15, 15]
    counts = torch.zeros(4, 4).index_put((places[:, 0] // 4, places[:, 1] // 4), torch.ones(()), accumulate=True)
    expected = len(images) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi-squared of 15 degrees: one in a thousand is above
    if kind == "noise":
        assert len(places.unique(dim=0)) > 250  # of 256


def test_a_place_follows_from_the_image_alone_and_is_the_same_for_good() -> None:
    images = (torch.arange(4 * 3 * 5 * 5) * 37 % 256).view(4, 3, 5, 5) / 255
    places = random_program().context(images)[1]
    assert places.tolist() == [[12, 12], [11, 8], [6, 10], [5, 14]]
    for changed in (images.double(), (images + 0.001 * torch.rand_like(images)).clamp(0, 1)):
        assert torch.equal(random_program().context(changed)[1], places)
    assert torch.equal(random_program().context(images[2:3])[1], places[2:3])
    moved = images.clone()
    moved[:, 0, 0, 0] = (moved[:, 0, 0, 0] + 1 / 255) % 1
    assert (random_program().context(moved)[1] != places).any(dim=1).all()


def test_the_gradient_of_a_random_patch_sums_over_the_places_of_the_batch() -> None:
    program, images, weights = random_program(), 0.5 * torch.ones(4, 3, 20, 18), torch.randn(4, 3, 20, 18)
    images = images + torch.linspace(-0.2, 0.2, 4).view(4, 1, 1, 1)
    (program(program.context(images)) * weights).sum().backward()
    places = corners(program, images).tolist()
    assert len({tuple(place) for place in places}) > 1
    seen = [
        weight[:, row : row + 5, column : column + 3] for weight, (row, column) in zip(weights, places, strict=True)
    ]
    torch.testing.assert_close(program.theta.grad, torch.stack(seen).sum(dim=0).flatten())


def test_the_norm_bounds_the_patch_and_a_grid_lies_on_the_patch() -> None:
    program, images = random_program(max_norm=0.3, resolution=1, tied=True), 0.5 * torch.ones(2, 3, 20, 18)
    canvas = program(program.context(images), torch.tensor([2.0]))
    torch.testing.assert_close((canvas - images).flatten(1).norm(dim=1), torch.full((2,), 0.3))
    torch.testing.assert_close((canvas - images).amax((1, 2, 3)), torch.full((2,), 0.3 / 45**0.5))


def test_a_patch_as_large_as_the_canvas_has_one_place() -> None:
    program = PatchProgram((6, 5), patch=(6, 5), at="random")
    assert not program.context(torch.rand(9, 3, 6, 5))[1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 9}, r"program\.patch: expected 1 to 8 rows and 1 to 8 columns .*, got 9"),
        ({"patch": 0}, r"program\.patch"),
        ({"patch": [4]}, r"program\.patch"),
        ({"patch": 4, "corner": [5, 0]}, r"program\.corner: expected a row of 0 to 4 .* 4x4, got \[5, 0\]"),
        ({"patch": 4, "corner": [0, -1]}, r"program\.corner"),
        ({"patch": 4, "corner": [0]}, r"program\.corner"),
        ({"at": "random", "corner": [0, 0]}, r"program\.corner: expected null .*program\.at=fixed"),
        ({"at": "centre"}, r"program\.at: expected fixed or random, got 'centre'"),
        ({"strength": 0.0}, r"program\.strength"),
        ({"max_norm": 0.0}, r"program\.max_norm"),
        ({"patch": 4, "resolution": 5}, r"program\.resolution: expected 1 to 4 rows"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PatchProgram((8, 8), **arguments)
