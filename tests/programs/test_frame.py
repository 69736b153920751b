"""The border program: exact values, and not one target pixel touched."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from reprogram.errors import ConfigError
from reprogram.programs.frame import FrameProgram
from reprogram.types import SourceSpec, TaskSpec


def compose(program: FrameProgram, images: torch.Tensor) -> torch.Tensor:
    return program(program.context(images))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_border_pixels_are_exactly_the_published_function_of_theta(activation: str) -> None:
    program = FrameProgram((10, 12), (4, 6), (3, 2), activation=activation)
    w = torch.randn_like(program.theta) * 3
    with torch.no_grad():
        program.theta.copy_(w)
    canvas = compose(program, torch.rand(2, 3, 4, 6)).detach()
    border = torch.ones(3, 10, 12, dtype=torch.bool)
    border[:, 3:7, 2:8] = False
    assert len(w) == border.sum() == 3 * (120 - 24)
    expected = torch.sigmoid(w) if activation == "sigmoid" else (1 + torch.tanh(w)) / 2
    for image in canvas:
        torch.testing.assert_close(image[border], expected)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("position", [None, (0, 0), (4, 1)])
def test_target_pixels_are_untouched_to_the_last_bit(activation: str, position: tuple[int, int] | None) -> None:
    program = FrameProgram((12, 12), 7, position, activation=activation)
    with torch.no_grad():
        program.theta.normal_(std=10)
    images = torch.rand(3, 3, 7, 7)
    row, column, height, width = program.placement.box
    assert torch.equal(compose(program, images)[:, :, row : row + height, column : column + width], images)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_without_a_resolution_every_bit_is_that_of_the_program_before_there_were_any(activation: str) -> None:
    support = torch.ones(9, 7, dtype=torch.bool).triu(1)
    program = FrameProgram((37, 29), (21, 17), support=support, activation=activation)
    context = program.context(torch.rand(3, 3, 9, 7))
    index = (~program.placement.covered).expand(1, 3, 37, 29).flatten().nonzero().squeeze(1)
    assert len(program.theta) == len(index)
    for theta in (torch.randn(len(index)), 3 * torch.randn(3, len(index))):
        values = torch.sigmoid((2.0 if activation == "tanh" else 1.0) * theta)
        rows = values.reshape(-1, values.shape[-1])
        frame = rows.new_zeros(len(rows), 3 * 37 * 29).index_copy(1, index, rows).view(-1, 3, 37, 29)
        assert torch.equal(program(context, theta), context[0] + frame)


def test_the_untrained_frame_is_grey() -> None:
    canvas = compose(FrameProgram((8, 8), 4), torch.zeros(1, 3, 4, 4))
    assert canvas[0, :, 0].eq(0.5).all()


def test_by_default_the_image_takes_three_quarters_of_the_canvas() -> None:
    assert FrameProgram((64, 64)).placement.box == (8, 8, 48, 48)
    assert FrameProgram((224, 160)).placement.size == (168, 120)


def test_pixels_without_data_belong_to_the_program() -> None:
    support = torch.ones(6, 6, dtype=torch.bool).triu(1)
    program = FrameProgram((6, 6), 6, support=support)  # no border at all: only the lower triangle is left
    assert len(program.theta) == 3 * 21
    with torch.no_grad():
        program.theta.fill_(2.0)
    images = torch.rand(1, 3, 6, 6)
    canvas = compose(program, images)[0]
    assert torch.equal(canvas[:, support], images[0][:, support])
    torch.testing.assert_close(canvas[:, ~support], torch.full((3, 21), 2.0).sigmoid())


def test_a_resized_support_leaves_no_pixel_with_both_data_and_program() -> None:
    support = torch.ones(9, 9, dtype=torch.bool).triu(1)
    program = FrameProgram((32, 32), 24, support=support)
    with torch.no_grad():
        program.theta.fill_(20.0)  # the program is white: data under it would exceed 1
    canvas = compose(program, torch.ones(1, 3, 9, 9))
    assert canvas.max() <= 1
    covered = program.placement.covered.expand_as(canvas)
    torch.testing.assert_close(canvas[covered], torch.ones(int(covered.sum())))


def test_the_gradient_is_the_derivative_of_the_activation_and_sums_over_the_batch() -> None:
    for activation, slope in (("sigmoid", 0.25), ("tanh", 0.5)):  # at zero
        program = FrameProgram((8, 8), 4, activation=activation)
        compose(program, torch.rand(3, 3, 4, 4)).sum().backward()
        torch.testing.assert_close(program.theta.grad, torch.full_like(program.theta, 3 * slope))


def test_theta_of_each_example_stays_with_its_example() -> None:
    program = FrameProgram((8, 8), 4)
    theta = torch.stack([torch.full_like(program.theta, value) for value in (-1.0, 0.0, 2.0)]).detach()
    canvas = program(program.context(torch.rand(3, 3, 4, 4)), theta)
    torch.testing.assert_close(canvas[:, 1, 0, 0], torch.tensor([-1.0, 0.0, 2.0]).sigmoid())


def test_one_point_scores_many_images_and_float64_stays() -> None:
    program = FrameProgram((8, 8), 4).double()
    canvas = compose(program, torch.rand(5, 3, 4, 4, dtype=torch.float64))
    assert canvas.dtype == torch.float64
    assert canvas.shape == (5, 3, 8, 8)


@pytest.mark.parametrize("side", [28, 1000])
def test_large_and_small_images_give_a_valid_canvas(side: int) -> None:
    canvas = compose(FrameProgram((64, 48)), torch.rand(1, 3, side, side // 2))
    assert canvas.shape == (1, 3, 64, 48)
    assert canvas.min() >= 0
    assert canvas.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "leaves no frame.*program=full"),
        ({"size": 9}, r"program\.size"),
        ({"size": 0}, r"program\.size"),
        ({"size": 4, "position": (5, 0)}, r"program\.position"),
        ({"activation": "relu"}, "sigmoid or tanh, got 'relu'"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrameProgram((8, 8), **arguments)


def test_the_state_is_theta_alone() -> None:
    assert list(FrameProgram((8, 8), 4).state_dict()) == ["theta"]


def drawn(folder: Path, mask: torch.Tensor) -> str:
    Image.fromarray(mask.numpy()).save(folder / "mask.png")
    return str(folder / "mask.png")


def test_a_mask_leaves_the_rest_of_the_frame_black(tmp_path: Path) -> None:
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[:4] = True  # reaches under the target image
    program = FrameProgram((8, 10), 4, mask=drawn(tmp_path, mask))
    images = torch.rand(2, 3, 4, 4)
    canvas = program(program.context(images), torch.full_like(program.theta, 2.0))
    free = mask.clone()
    free[2:6, 3:7] = False
    assert len(program.theta) == 3 * free.sum()
    assert torch.equal(canvas[:, :, 2:6, 3:7], images)
    torch.testing.assert_close(canvas[:, :, free], torch.full((2, 3, int(free.sum())), 2.0).sigmoid())
    canvas[:, :, 2:6, 3:7] = 0
    assert not canvas[:, :, ~free].any()


def test_a_mask_under_the_target_image_leaves_no_frame(tmp_path: Path) -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3:5, 3:5] = True
    with pytest.raises(ConfigError, match=r"program\.mask: expected bright pixels on the frame.*program=full"):
        FrameProgram((8, 8), 4, mask=drawn(tmp_path, mask))


def test_the_mask_becomes_part_of_the_run(tmp_path: Path) -> None:
    mask = torch.eye(8, dtype=torch.bool)
    block = {"_target_": "reprogram.programs.frame.FrameProgram", "mask": drawn(tmp_path, mask)}
    source, task = SourceSpec("source", (8, 8), ("a",)), TaskSpec("task", ("a", "b"), (4, 4))
    filled = FrameProgram.self_contained(block, source, task)
    (tmp_path / "mask.png").unlink()
    assert len(FrameProgram((8, 8), 4, mask=filled["mask"]).theta) == 3 * 4
