"""The corners where peers break: two classes and a thousand, one image a class, a missing class, odd images."""

from pathlib import Path

import pytest
import torch
from leaves import block, configs, each, mapping
from torch import Tensor

from reprogram.instantiation import call
from reprogram.programs.base import InputProgram
from reprogram.sources.embedded import embedded_source

CANVAS = (64, 64)


def responses(count: int, source_classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(count, source_classes, generator=generator)).log_softmax(1)


@each("mapping")
@pytest.mark.parametrize("target_classes", [2, 3, 6, 7])
@pytest.mark.parametrize("missing", [False, True], ids=["all", "missing"])
def test_one_image_of_each_class_is_enough(config: Path, target_classes: int, missing: bool) -> None:
    made, targets = mapping(config, target_classes), torch.arange(int(missing), target_classes)
    seen = responses(len(targets), 12)
    made.observe(seen, targets)
    made.refit()
    scores = made(seen)
    assert torch.isfinite(scores).all()
    scores.sum().backward() if scores.requires_grad else None
    assert all(torch.isfinite(parameter.grad).all() for parameter in made.parameters() if parameter.grad is not None)
    for name, value in made.state_dict().items():
        assert not isinstance(value, Tensor) or not value.is_floating_point() or torch.isfinite(value).all(), name


@each("mapping")
def test_as_many_target_classes_as_imagenet_has(config: Path) -> None:
    count = 1000
    made = mapping(config, count, source_classes=count)
    made.observe(responses(count, count), torch.arange(count))
    made.refit()
    scores = made(responses(5, count))
    assert scores.shape == (5, count)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("config", configs("program"), ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [(28, 28), (1000, 1000), (1, 1), (300, 17)], ids=str)
def test_images_of_any_size_become_the_canvas(config: Path, size: tuple[int, int]) -> None:
    made: InputProgram = call(block(config), "program", canvas=CANVAS, support=None, seed=0, encoder=embedded_source())
    images = torch.rand(2, 1, *size).expand(-1, 3, -1, -1)  # gray
    with torch.no_grad():
        made.theta += 0.1 * torch.randn_like(made.theta)
    canvas = made(made.context(images))
    assert canvas.shape == (2, 3, *CANVAS)
    assert canvas.min() >= 0
    assert canvas.max() <= 1
    assert not torch.equal(canvas[0], canvas[1])
