"""Random draws and drawing primitives that the families share."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Renderer = Callable[[Generator, Tensor, Tensor], Tensor]


def uniform(g: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Draws a tensor of the given shape from low..high."""
    return low + (high - low) * torch.rand(shape, generator=g)


def number(g: Generator, low: float, high: float) -> float:
    """Draws one number from low..high."""
    return float(uniform(g, low, high, 1))


def integer(g: Generator, low: int, high: int) -> int:
    """Draws from low..high, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=g))


def jitter(g: Generator, scale: float, *shape: int) -> Tensor:
    """Draws a tensor of the given shape from a centred normal distribution."""
    return scale * torch.randn(shape, generator=g)


def soft(distance: Tensor, width: float = 0.06) -> Tensor:
    """Turns a signed distance (positive inside) into coverage with a one-pixel slope."""
    return (distance / width + 0.5).clamp(0, 1)


def wave(phase: Tensor, form: int) -> Tensor:
    """Sine, soft square, sawtooth or thin line of a phase in radians."""
    if form == 2:
        return torch.remainder(phase, 2 * math.pi)
    sine = torch.sin(phase)
    return (sine, (4 * sine).tanh(), sine, (sine - 0.7).relu())[form]


def segment_distance(x: Tensor, y: Tensor, points: Tensor) -> Tensor:
    """Distance to the polyline through points [N, M, 2]."""
    best = torch.full_like(x, 9.0)
    for start, end in zip(points[:, :-1].unbind(1), points[:, 1:].unbind(1), strict=True):
        px, py = x - start[:, 0, None, None], y - start[:, 1, None, None]
        dx, dy = (end - start)[:, 0, None, None], (end - start)[:, 1, None, None]
        t = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-6)).clamp(0, 1)
        best = torch.minimum(best, (px - t * dx) ** 2 + (py - t * dy) ** 2)
    return best.sqrt()
