"""Families of figures: something of a definite form on a ground. The package says how a family works."""

import math

import torch
from torch import Generator, Tensor

from embedded_classes.drawing import Renderer, integer, jitter, number, segment_distance, soft, uniform


def ifs(c: Generator) -> Renderer:
    """Attractor of two to four random affine contractions, as a point density."""
    count = integer(c, 2, 4)
    angle, size = uniform(c, 0, 2 * math.pi, count), uniform(c, 0.4, 0.75, count)
    squash, shift = uniform(c, 0.4, 1, count), uniform(c, -0.8, 0.8, count, 2)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(count, 2, 2)
    matrix = turn * torch.stack([size, size * squash], -1)[:, None]

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        n, side, walkers = len(x), x.shape[-1], 1536
        maps = matrix + jitter(g, 0.03, n, count, 2, 2)
        moves = shift + jitter(g, 0.03, n, count, 2)
        point, rows = torch.zeros(n, walkers, 2), torch.arange(n)[:, None]
        visits = []
        for step in range(14):
            pick = torch.randint(count, (n, walkers), generator=g)
            point = (maps[rows, pick] @ point[..., None])[..., 0] + moves[rows, pick]
            if step > 9:
                visits.append(point)
        cloud = torch.cat(visits, 1)
        cloud = cloud - cloud.mean(1, keepdim=True)
        cloud = cloud / (2.2 * cloud.std(1, keepdim=True).amax(-1, keepdim=True))
        cell = ((cloud.clamp(-0.999, 0.999) + 1) / 2 * side).long()
        image = torch.zeros(n, side * side)
        image.scatter_add_(1, cell[..., 1] * side + cell[..., 0], torch.ones(cell.shape[:2]))
        image[:, [0, side - 1, -side, -1]] = 0  # clamped outliers
        return (image / 4).clamp(max=1).view(n, side, side).sqrt()

    return render


def polygon(c: Generator) -> Renderer:
    """Random star-shaped polygon: filled, outlined or nested."""
    count, mode = integer(c, 3, 9), integer(c, 0, 2)
    angle = (torch.arange(count) + uniform(c, -0.35, 0.35, count)) * (2 * math.pi / count)
    radius = uniform(c, 0.35, 0.9, count)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        a, r = angle + jitter(g, 0.06, len(x), count), radius + jitter(g, 0.04, len(x), count)
        corners = torch.stack([r * a.cos(), r * a.sin()], -1)
        corners = torch.cat([corners, corners[:, :1]], 1)
        inside = torch.zeros_like(x)
        for start, end in zip(corners[:, :-1].unbind(1), corners[:, 1:].unbind(1), strict=True):
            (sx, sy), (ex, ey) = start[:, :, None, None].unbind(1), end[:, :, None, None].unbind(1)
            crosses = ((sy > y) != (ey > y)) & (x < (ex - sx) * (y - sy) / (ey - sy + 1e-9) + sx)
            inside = (inside != crosses.float()).float()
        edge = segment_distance(x, y, corners)
        signed = torch.where(inside > 0, edge, -edge)
        width = uniform(g, 0.04, 0.1, len(x), 1, 1)
        return (soft(signed), soft(width - edge), soft(signed) - 0.8 * soft(signed - 0.18))[mode]

    return render


def stroke(c: Generator) -> Renderer:
    """Glyph of two to four quadratic curves, some joined end to end."""
    count = integer(c, 1, 4)
    controls = uniform(c, -0.8, 0.8, count, 3, 2)
    for i in range(1, count):
        if number(c, 0, 1) < 0.6:
            controls[i, 0] = controls[i - 1, 2]
    t = torch.linspace(0, 1, 8)[:, None]
    basis = torch.cat([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        curves = torch.einsum("mk,nckd->ncmd", basis, controls + jitter(g, 0.07, len(x), *controls.shape))
        distance = torch.stack([segment_distance(x, y, curve) for curve in curves.unbind(1)]).amin(0)
        return soft(uniform(g, 0.04, 0.13, len(x), 1, 1) - distance)

    return render


def flower(c: Generator) -> Renderer:
    """Closed Fourier silhouette, with or without holes."""
    harmonics = torch.arange(1, 8)
    size, phase = jitter(c, 0.28, 7) / harmonics**0.6, uniform(c, 0, 6.28, 7)
    hole, gap = number(c, 0, 0.6), integer(c, 0, 1)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        theta, r = torch.atan2(y, x), (x * x + y * y).sqrt()
        weights = size + jitter(g, 0.02, len(x), 7)
        rim = 0.6 + sum(weights[:, k, None, None] * torch.cos((k + 1) * theta + phase[k]) for k in range(7))
        rim = torch.as_tensor(rim).clamp(0.08, 1.0)
        return soft(rim - r) - gap * soft(hole * rim - r)

    return render


def dots(c: Generator) -> Renderer:
    """Constellation of discs of fixed places, radii and grey levels."""
    count, blur = integer(c, 3, 9), number(c, 0.06, 0.3)
    place, radius, level = uniform(c, -0.8, 0.8, count, 2), uniform(c, 0.1, 0.35, count), uniform(c, 0.35, 1, count)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        image = torch.zeros_like(x)
        where = place + jitter(g, 0.06, len(x), count, 2)
        for i in range(count):
            distance = ((x - where[:, i, :1, None]) ** 2 + (y - where[:, i, 1:, None]) ** 2).sqrt()
            image = torch.maximum(image, level[i] * soft(radius[i] - distance, blur))
        return image

    return render


def mosaic(c: Generator) -> Renderer:
    """Grid of square tiles of fixed grey levels, each level shaken from instance to instance."""
    rows, columns, gap = integer(c, 3, 7), integer(c, 3, 7), number(c, -0.1, 0.12)
    levels = uniform(c, 0, 1, rows, columns)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        tiles = (levels + jitter(g, 0.2, len(x), rows, columns)).clamp(0, 1)
        u, v = ((x + 1) / 2).clamp(0, 0.999) * columns, ((y + 1) / 2).clamp(0, 0.999) * rows
        cell = v.long() * columns + u.long()
        image = torch.gather(tiles.flatten(1), 1, cell.flatten(1)).view_as(x)
        border = torch.minimum(torch.minimum(u.frac(), 1 - u.frac()), torch.minimum(v.frac(), 1 - v.frac()))
        return image * (border > gap).float()

    return render


def scene(c: Generator) -> Renderer:
    """Overlapping rectangles and ellipses of fixed places and grey levels, painted in order."""
    count = integer(c, 3, 6)
    place, size, level = uniform(c, -0.7, 0.7, count, 2), uniform(c, 0.2, 0.6, count, 2), uniform(c, 0, 1, count)
    angle, power = uniform(c, 0, math.pi, count), [(2, 8)[integer(c, 0, 1)] for _ in range(count)]

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        image = torch.full_like(x, 0.15)
        where, grey = place + jitter(g, 0.07, len(x), count, 2), level + jitter(g, 0.08, len(x), count)
        for i in range(count):
            px, py = x - where[:, i, :1, None], y - where[:, i, 1:, None]
            u, v = px * angle[i].cos() + py * angle[i].sin(), py * angle[i].cos() - px * angle[i].sin()
            cover = soft(1 - (u / size[i, 0]) ** power[i] - (v / size[i, 1]) ** power[i], 0.2)
            image = image * (1 - cover) + cover * grey[:, i, None, None]
        return image

    return render


def landscape(c: Generator) -> Renderer:
    """Smooth grey relief: low-frequency cosine coefficients, fixed but for a strong shake from instance to instance."""
    terms = integer(c, 3, 5)
    heights = jitter(c, 1, terms, terms) / (1 + torch.arange(terms)[:, None] + torch.arange(terms))
    heights[0, 0] = 0

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        shaken = heights + jitter(g, 0.08, len(x), terms, terms)
        waves_x = torch.stack([torch.cos(math.pi / 2 * k * (x + 1)) for k in range(terms)], 1)
        waves_y = torch.stack([torch.cos(math.pi / 2 * k * (y + 1)) for k in range(terms)], 1)
        return torch.einsum("nij,nihw,njhw->nhw", shaken, waves_y, waves_x)

    return render
