"""The masked program against a forward of its own, written from the formula of the paper."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from reprogram.errors import ConfigError
from reprogram.programs.sample_masks import SampleMasksProgram

MASK_WEIGHTS = 26_499
WIDTHS = (8, 16, 32, 64)


def normalised(maps: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Groups of eight channels have mean 0 and variance 1 together: [C, h, w]."""
    parts = []
    for group in maps.split(8):
        parts.append((group - group.mean()) / (group.var(correction=0) + 1e-5).sqrt())
    return torch.cat(parts) * gain[:, None, None] + shift[:, None, None]


def halved(maps: Tensor) -> Tensor:
    """The largest of two by two values, of fewer at the far edges."""
    _, height, width = maps.shape
    rows = torch.stack([maps[:, y : y + 2].amax(1) for y in range(0, height, 2)], dim=1)
    return torch.stack([rows[:, :, x : x + 2].amax(2) for x in range(0, width, 2)], dim=2)


def masked(image: Tensor, pattern: Tensor, weights: Tensor) -> Tensor:
    """x' = r(x) + delta * up(f_mask(r(x))), cut to an image: [3, H, W], like r(x) and delta."""
    left = weights

    def take(*shape: int) -> Tensor:
        nonlocal left
        taken, left = left.tensor_split([torch.Size(shape).numel()])
        return taken.view(shape)

    maps = image
    for layer, width in enumerate(WIDTHS):
        maps = conv2d(maps[None], take(width, len(maps), 3, 3), take(width), padding=1)[0]
        maps = normalised(maps, take(width), take(width)).relu()
        maps = halved(maps) if layer < 3 else maps
    mask = conv2d(maps[None], take(3, 64, 3, 3), take(3), padding=1)[0]
    assert len(left) == 0
    rows, columns = (torch.arange(side) // 8 for side in image.shape[1:])
    return (image + pattern * mask[:, rows][:, :, columns]).clamp(0, 1)


def random_theta(program: SampleMasksProgram, *rows: int) -> Tensor:
    return 0.3 * torch.randn(*rows, len(program.theta), dtype=torch.float64)


@pytest.mark.parametrize("canvas", [(24, 16), (20, 13), (8, 8), (3, 9)], ids=str)
def test_it_is_the_formula_of_the_paper_and_so_is_its_gradient(canvas: tuple[int, int]) -> None:
    program, images = SampleMasksProgram(canvas).double(), torch.rand(2, 3, *canvas, dtype=torch.float64)
    theta = random_theta(program).requires_grad_()
    pattern, weights = theta.split([3 * canvas[0] * canvas[1], MASK_WEIGHTS])
    expected = torch.stack([masked(image, pattern.view(3, *canvas), weights) for image in images])
    found = program(program.context(images), theta)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - images).abs().mean() > 0.01
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((canvases * weight).sum(), theta)[0] for canvases in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"resolution": [4, 3]}, {"resolution": 5, "tied": True}], ids=str)
def test_every_image_may_have_a_pattern_and_a_network_of_its_own(options: dict) -> None:
    program, images = SampleMasksProgram((20, 12), **options).double(), torch.rand(2, 3, 20, 12, dtype=torch.float64)
    theta = random_theta(program, 2)
    found = program(program.context(images), theta)
    for index, row in enumerate(theta):
        pattern, weights = row.split([len(row) - MASK_WEIGHTS, MASK_WEIGHTS])
        sides = options.get("resolution", (20, 12))
        sides = (sides, sides) if isinstance(sides, int) else sides
        grid = pattern.view(1, -1, *sides)
        pattern = interpolate(grid, (20, 12), mode="bilinear", align_corners=False)[0].expand(3, -1, -1)
        expected = masked(images[index], pattern, weights)
        torch.testing.assert_close(found[index], expected, atol=1e-6, rtol=0)
        alone = program(program.context(images[index : index + 1]), row)
        torch.testing.assert_close(alone[0], expected, atol=1e-6, rtol=0)


def test_without_training_the_image_lies_unchanged_on_grey() -> None:
    program, images = SampleMasksProgram((20, 16), (9, 7), (3, 2)), torch.rand(2, 3, 9, 7)
    canvas = program(program.context(images)).detach().clone()
    assert torch.equal(canvas[:, :, 3:12, 2:9], images)
    canvas[:, :, 3:12, 2:9] = 0.5
    assert canvas.eq(0.5).all()
    whole = torch.rand(2, 3, 20, 16)
    program = SampleMasksProgram((20, 16))
    assert torch.equal(program(program.context(whole)), whole)


def test_pixels_without_data_are_grey_and_may_be_drawn_on() -> None:
    support = torch.ones(6, 6, dtype=torch.bool).triu(1)
    program = SampleMasksProgram((6, 6), support=support)
    canvas = program(program.context(torch.ones(1, 3, 6, 6)))
    assert canvas[0][:, support].eq(1).all()
    assert canvas[0][:, ~support].eq(0.5).all()
    assert len(program.theta) == 3 * 36 + MASK_WEIGHTS


def test_an_image_gets_its_own_share_of_one_pattern_the_same_within_a_patch() -> None:
    program, images = SampleMasksProgram((16, 24)), 0.4 + 0.2 * torch.rand(2, 3, 16, 24)
    theta = program.theta.detach().clone()
    theta[: 3 * 16 * 24] = 0.1
    shares = program(program.context(images), theta) - images
    values = shares[:, :, ::8, ::8]
    torch.testing.assert_close(shares, values.repeat_interleave(8, 2).repeat_interleave(8, 3), atol=1e-6, rtol=0)
    assert (values[0] - values[1]).abs().min() > 0
    assert values[0].flatten().unique().numel() == 3 * 2 * 3


def test_the_answer_to_an_image_does_not_depend_on_its_batch() -> None:
    program, images = SampleMasksProgram((20, 16)), torch.rand(4, 3, 20, 16)
    theta = random_theta(program).float()
    together = program(program.context(images), theta)
    for index in range(4):
        alone = program(program.context(images[index : index + 1]), theta)
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


def test_the_start_is_no_pattern_and_a_network_of_its_seed() -> None:
    before = torch.get_rng_state()
    one, same, other = (SampleMasksProgram((16, 16), seed=seed).theta for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not one[: 3 * 256].any()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len(SampleMasksProgram((224, 224)).theta) == 3 * 224**2 + MASK_WEIGHTS
    assert len(SampleMasksProgram((224, 224), resolution=16, tied=True).theta) == 256 + MASK_WEIGHTS


def test_the_first_gradient_moves_the_pattern_the_next_one_the_network() -> None:
    program, images = SampleMasksProgram((16, 16)), 0.4 + 0.2 * torch.rand(3, 3, 16, 16)
    weight = torch.randn(3, 3, 16, 16)
    (program(program.context(images)) * weight).sum().backward()
    assert program.theta.grad is not None
    pattern, network = program.theta.grad.split([3 * 256, MASK_WEIGHTS])
    assert pattern.ne(0).all()
    assert not network.any()
    with torch.no_grad():
        program.theta.sub_(0.01 * program.theta.grad)
    program.theta.grad = None
    (program(program.context(images)) * weight).sum().backward()
    assert program.theta.grad[3 * 256 :].abs().sum() > 0


def test_the_norm_bounds_what_is_added() -> None:
    images = torch.full((2, 3, 16, 16), 0.5)
    free, bounded = SampleMasksProgram((16, 16)), SampleMasksProgram((16, 16), max_norm=0.2)
    theta = free.theta.detach().clone()
    theta[: 3 * 256] = 0.05 * torch.randn(3 * 256)
    added, shortened = (program(program.context(images), theta) - images for program in (free, bounded))
    assert (added.flatten(1).norm(dim=1) > 0.2).all()
    torch.testing.assert_close(shortened.flatten(1).norm(dim=1), torch.tensor([0.2, 0.2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cosine_similarity(added.flatten(1), shortened.flatten(1)), torch.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 0.0}, r"program\.max_norm"),
        ({"size": 17}, r"program\.size"),
        ({"resolution": 17}, r"program\.resolution"),
        ({"basis": "waves"}, r"program\.basis"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SampleMasksProgram((16, 16), **options)
