"""The border program whose target image has a learned size."""

import math

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.programs.frame import FrameProgram
from reprogram.programs.scaled_frame import ScaledFrameProgram


def at(program: ScaledFrameProgram, scale: float, frame: float = 0.0) -> torch.Tensor:
    """Parameters [D] of a constant frame around an image of so many times its size."""
    low, high = math.log(0.5), math.log(4 / 3)  # of the defaults, on a canvas that 4 divides
    way, start = (math.log(scale) - low) / (high - low), -low / (high - low)
    theta = torch.full_like(program.theta, frame).detach()
    theta[-1] = math.log(way / (1 - way)) - math.log(start / (1 - start))
    return theta


def resampling(side: int, first: int, length: int, fixed: float, scale: float) -> torch.Tensor:
    """Weights [side, length] of a zoom of pixels first.. along one axis: the covered part times a bilinear mean."""
    weights = torch.zeros(side, length, dtype=torch.float64)
    low, high = (fixed + (edge - fixed) * scale for edge in (first, first + length))
    for pixel in range(side):
        part = max(0.0, min(pixel + 1, high) - max(pixel, low))
        source = fixed + (pixel + 0.5 - fixed) / scale - first - 0.5  # in pixels of the image
        source = min(max(source, 0.0), length - 1.0)
        for index in range(length):
            weights[pixel, index] = part * max(0.0, 1 - abs(index - source))
    return weights


@pytest.mark.parametrize("scale", [0.6, 0.9, 1.0, 1.1, 1.3])
@pytest.mark.parametrize(("position", "fixed"), [(None, (12.0, 8.0)), ([0, 4], (0.0, 16.0)), ([3, 1], (12.0, 4.0))])
def test_image_and_frame_are_those_of_the_formula(
    scale: float, position: list[int] | None, fixed: tuple[float, float]
) -> None:
    program = ScaledFrameProgram((24, 16), position=position).double()
    image = torch.rand(3, 18, 12, dtype=torch.float64)
    canvas = program(program.context(image[None]), at(program, scale, frame=-1.0).double())[0]
    top, left = (3, 2) if position is None else position
    scale *= 1 + 1e-5  # see the class
    rows, columns = resampling(24, top, 18, fixed[0], scale), resampling(16, left, 12, fixed[1], scale)
    frame = (1 - rows @ torch.ones_like(image) @ columns.T) / (1 + math.e)
    torch.testing.assert_close(canvas, rows @ image @ columns.T + frame, atol=1e-6, rtol=0)


def test_untrained_it_is_the_frame_program() -> None:
    images = torch.rand(2, 3, 9, 9)
    for arguments in ({}, {"activation": "tanh", "position": [0, 10]}, {"size": [20, 31]}):
        scaled, frame = ScaledFrameProgram((64, 48), **arguments), FrameProgram((64, 48), **arguments)
        expected = frame(frame.context(images))
        torch.testing.assert_close(scaled(scaled.context(images)), expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("position", [None, [0, 0], [6, 2], [2, 4]])
def test_between_its_limits_the_image_lies_within_the_canvas(position: list[int] | None) -> None:
    program = ScaledFrameProgram((24, 16), position=position)
    theta = torch.full_like(program.theta, -40.0).detach()  # a black frame
    context = program.context(torch.ones(1, 3, 18, 12))
    for number, scale in ((-40.0, 0.5), (0.0, 1.0), (40.0, 4 / 3)):
        theta[-1] = number
        assert program.scale(theta).item() == pytest.approx(scale)
        white = program(context, theta)[0, 0].sum().item()
        assert white == pytest.approx(scale**2 * 18 * 12, rel=1e-4)


def test_the_limits_are_heights_of_the_image() -> None:
    program = ScaledFrameProgram((224, 224), [100, 50], smallest=20, largest=224)
    theta = torch.zeros(3, len(program.theta))
    theta[:, -1] = torch.tensor([-40.0, 0.0, 40.0])
    torch.testing.assert_close(100 * program.scale(theta), torch.tensor([20.0, 100.0, 224.0]))


def test_only_pixels_that_some_scale_uncovers_are_learned() -> None:
    program = ScaledFrameProgram((24, 16))  # at its smallest the image has 9 rows on a canvas of 24: the outer two half
    assert len(program.theta) == 3 * (24 * 16 - 8 * 6) + 1
    program = ScaledFrameProgram((24, 16), resolution=4, tied=True)
    assert len(program.theta) == 16 + 1


def test_pixels_without_data_belong_to_the_frame_at_every_scale() -> None:
    ring = torch.ones(18, 12, dtype=torch.bool)
    ring[7:11, 4:8] = False  # a hole, which is larger where the image is
    program = ScaledFrameProgram((24, 16), support=ring)
    context = program.context(torch.zeros(1, 3, 18, 12))
    for scale, side in ((0.75, 3), (1.0, 4), (1.25, 5)):
        inside = program(context, at(program, scale, frame=40.0))[0, 0, 6:18, 4:12]
        assert inside.sum().item() == pytest.approx(side**2, rel=1e-3)
    assert len(program.theta) > len(ScaledFrameProgram((24, 16)).theta)


def test_theta_of_each_example_zooms_its_own_image() -> None:
    program, images = ScaledFrameProgram((24, 16)), torch.rand(3, 3, 18, 12)
    theta = torch.stack([at(program, scale, frame) for scale, frame in ((0.6, -1.0), (1.0, 0.0), (1.2, 2.0))])
    context = program.context(images)
    together = program(context, theta)
    for index in range(3):
        torch.testing.assert_close(together[index], program(context, theta[index])[index])


def test_before_training_too_the_gradient_of_the_scale_is_the_slope() -> None:
    program = ScaledFrameProgram((64, 64), 48).double()
    context = program.context(torch.rand(2, 3, 48, 48, dtype=torch.float64))
    weights = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((program(context) * weights).sum(), program.theta)
    step = torch.zeros_like(program.theta)
    step[-1] = 1e-7  # well within the distance to the kink at r = 1
    with torch.no_grad():
        slope = ((program(context, step) - program(context, -step)) * weights).sum() / 2e-7
    torch.testing.assert_close(gradient[-1], slope, atol=1e-3, rtol=1e-3)


def test_the_gradient_tells_the_scale_which_way_to_go() -> None:
    program = ScaledFrameProgram((24, 16)).double()
    context = program.context(torch.rand(2, 3, 18, 12, dtype=torch.float64))
    weights = torch.randn(2, 3, 24, 16, dtype=torch.float64)
    theta = torch.randn_like(program.theta).detach()
    theta[-1] = at(program, 0.83)[-1]

    def loss(point: torch.Tensor) -> torch.Tensor:
        return (program(context, point) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(theta.requires_grad_()), theta)
    for index in (0, 100, len(theta) - 1):
        step = torch.zeros_like(theta)
        step[index] = 1e-6
        with torch.no_grad():
            slope = (loss(theta + step) - loss(theta - step)) / 2e-6
        torch.testing.assert_close(gradient[index], slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wanted", [0.7, 1.2])
def test_descent_finds_the_size_that_is_wanted(wanted: float) -> None:
    program = ScaledFrameProgram((24, 24), resolution=1, tied=True)
    context = program.context(torch.ones(1, 3, 18, 18))
    goal = program(context, at(program, wanted, frame=-3.0))
    number = torch.zeros(1)
    for _ in range(100):
        number.requires_grad_()
        canvas = program(context, torch.cat([torch.tensor([-3.0]), number]))
        (gradient,) = torch.autograd.grad((canvas - goal).square().mean(), number)
        number = number.detach() - gradient
    assert program.scale(number).item() == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 16}, r"program\.size: .*16x16 pixels cannot grow on a canvas of 16x16; .*program=full"),
        ({"size": [8, 16]}, r"program\.size"),
        ({"size": 17}, r"program\.size"),
        ({"smallest": 12}, r"program\.smallest: expected 1 to 11 pixels .*, got 12"),
        ({"smallest": 0}, r"program\.smallest"),
        ({"largest": 12}, r"program\.largest: expected more than 12 .* at most 16 pixels .*16x16.*, got 12"),
        ({"largest": 17}, r"program\.largest"),
        ({"size": [8, 12], "largest": 11}, r"program\.largest: .*at most 10 pixels"),
        ({"activation": "relu"}, "sigmoid or tanh, got 'relu'"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScaledFrameProgram((16, 16), **arguments)
