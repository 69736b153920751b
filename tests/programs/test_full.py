"""The additive program over the whole canvas."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from reprogram.errors import ConfigError
from reprogram.programs.full import FullProgram
from reprogram.types import SourceSpec, TaskSpec


def test_without_training_the_image_lies_unchanged_on_grey() -> None:
    program, images = FullProgram((8, 10), (4, 6)), torch.rand(2, 3, 4, 6)
    canvas = program(program.context(images))
    assert torch.equal(canvas[:, :, 2:6, 2:8], images)
    canvas[:, :, 2:6, 2:8] = 0.5
    assert canvas.eq(0.5).all()


def test_by_default_the_image_fills_the_canvas() -> None:
    program, images = FullProgram((8, 8)), torch.rand(2, 3, 8, 8)
    assert torch.equal(program(program.context(images)), images)


@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_the_offset_is_bounded_by_the_strength_and_clipped_to_an_image(strength: float) -> None:
    program = FullProgram((6, 6), strength=strength)
    theta = torch.randn(3 * 36) * 2
    images = torch.rand(4, 3, 6, 6)
    canvas = program(program.context(images), theta)
    expected = (images + strength * torch.tanh(theta).view(3, 6, 6)).clamp(0, 1)
    torch.testing.assert_close(canvas, expected)
    assert (canvas - images).abs().max() <= strength + 1e-6


@pytest.mark.parametrize("batch", [(), (3,)], ids=["shared", "rows"])
def test_without_a_resolution_every_bit_is_that_of_the_program_before_there_were_any(batch: tuple[int, ...]) -> None:
    program, theta = FullProgram((37, 29), 21, strength=0.7), torch.randn(*batch, 3 * 37 * 29)
    context = program.context(torch.rand(3, 3, 9, 7))
    expected = (context[0] + 0.7 * torch.tanh(theta).view(-1, 3, 37, 29)).clamp(0, 1)
    assert torch.equal(program(context, theta), expected)


def test_the_mid_grey_around_the_image_can_be_moved_both_ways() -> None:
    program = FullProgram((8, 8), 4)
    for sign in (-1.0, 1.0):
        canvas = program(program.context(torch.zeros(1, 3, 4, 4)), torch.full((3 * 64,), 0.1 * sign))
        assert canvas[0, 0, 0, 0].item() == pytest.approx(0.5 + sign * torch.tensor(0.1).tanh().item())


def test_pixels_without_data_are_grey_too() -> None:
    support = torch.ones(6, 6, dtype=torch.bool).triu(1)
    program = FullProgram((6, 6), support=support)
    canvas = program(program.context(torch.ones(1, 3, 6, 6)))
    assert canvas[0][:, support].eq(1).all()
    assert canvas[0][:, ~support].eq(0.5).all()


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01])
def test_a_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match=r"program\.strength.*\(0, 1\]"):
        FullProgram((6, 6), strength=strength)


def test_a_target_image_larger_than_the_canvas_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"program\.size"):
        FullProgram((6, 6), 7)


def drawn(folder: Path, mask: torch.Tensor) -> str:
    Image.fromarray(mask.numpy()).save(folder / "mask.png")
    return str(folder / "mask.png")


@pytest.mark.parametrize("resolution", [None, 3])
def test_outside_a_mask_the_image_stays_as_placed(tmp_path: Path, resolution: int | None) -> None:
    mask = torch.ones(8, 8, dtype=torch.bool).triu(2)
    program = FullProgram((8, 8), 6, resolution=resolution, mask=drawn(tmp_path, mask))
    context = program.context(0.2 + 0.6 * torch.rand(2, 3, 6, 6))
    canvas = program(context, torch.full_like(program.theta, 0.1))
    assert torch.equal(canvas[:, :, ~mask], context[0][:, :, ~mask])
    assert (canvas[:, :, mask] > context[0][:, :, mask]).all()
    if resolution is None:
        assert len(program.theta) == 3 * mask.sum()


def test_the_mask_becomes_part_of_the_run(tmp_path: Path) -> None:
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    block = {"_target_": "reprogram.programs.full.FullProgram", "mask": drawn(tmp_path, mask)}
    source, task = SourceSpec("source", (8, 8), ("a",)), TaskSpec("task", ("a", "b"), (4, 4))
    filled = FullProgram.self_contained(block, source, task)
    (tmp_path / "mask.png").unlink()
    assert len(FullProgram((8, 8), mask=filled["mask"]).theta) == 3 * 36


@pytest.mark.parametrize("max_norm", [0.0, -1.0, 1e-45, 1e39, float("nan"), float("inf")])
def test_a_norm_that_float32_cannot_divide_by_is_refused(max_norm: float) -> None:
    with pytest.raises(ConfigError, match=r"program\.max_norm: expected 1e-6 to 1e6"):
        FullProgram((4, 4), max_norm=max_norm)


@pytest.mark.parametrize("size", [[], [1], [1, 2, 3]])
def test_sizes_and_positions_are_pairs(size: list[int]) -> None:
    for key in ("size", "position"):
        with pytest.raises(ConfigError, match=rf"program\.{key}: expected two whole numbers"):
            FullProgram((4, 4), **{key: size})
