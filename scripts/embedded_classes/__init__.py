"""Procedurally generated image classes for the embedded source model: no photograph, no third-party data.

Each function of ``shapes`` and ``textures`` is a family. Called with a class generator it draws the formula of one
class and returns a renderer; called with (generator, x, y) the renderer draws fresh instances on these coordinates.

Shapes:
    x, y: [N, S, S] slightly warped coordinates, about -1..1, y downwards -> patterns [N, S, S], scaled later to 0..1.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from embedded_classes.drawing import Renderer, jitter, uniform
from embedded_classes.shapes import dots, flower, ifs, landscape, mosaic, polygon, scene, stroke
from embedded_classes.textures import cppn, grating, julia, quasicrystal, radial, spectrum, tiling, truchet, voronoi

IMAGE_SIZE = 64

FAMILIES: tuple[Callable[[Generator], Renderer], ...] = (
    ifs, julia, cppn, grating, quasicrystal, voronoi, spectrum, polygon,
    stroke, radial, flower, dots, mosaic, tiling, truchet, scene, landscape,
)  # fmt: skip


def class_names(per_family: int) -> list[str]:
    """Names such as ``julia_03``, in output order."""
    return [f"{family.__name__}_{i:02d}" for family in FAMILIES for i in range(per_family)]


def render_classes(per_family: int, count: int, class_seed: int, instance_seed: int) -> Iterator[Tensor]:
    """Yields ``count`` instances of each class, in the order of ``class_names``.

    ``class_seed`` fixes the formulas; ``instance_seed`` fixes which instances are drawn.

    Shapes: one tensor [count, 64, 64] uint8 per class.
    """
    line = torch.linspace(-1, 1, IMAGE_SIZE)
    y0, x0 = torch.meshgrid(line, line, indexing="ij")
    for family_index, family in enumerate(FAMILIES):
        for i in range(per_family):
            number = family_index * 1000 + i
            draw = family(Generator().manual_seed(class_seed * 1_000_003 + number))
            g = Generator().manual_seed(instance_seed * 1_000_003 + number)
            bend, turn = jitter(g, 0.05, count, 2, 1, 1), uniform(g, 0, 6.28, count, 2, 1, 1)
            pitch = uniform(g, 1.5, 4.5, count, 2, 1, 1)
            x = x0 + bend[:, 0] * torch.sin(pitch[:, 0] * y0 + turn[:, 0])
            y = y0 + bend[:, 1] * torch.sin(pitch[:, 1] * x0 + turn[:, 1])
            image = draw(g, x, y)
            low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
            yield ((image - low) / (high - low + 1e-6) * 255).to(torch.uint8)
