"""Families of patterns that fill the plane. The package says how a family works."""

import math

import torch
from torch import Generator, Tensor

from embedded_classes.drawing import Renderer, integer, jitter, number, soft, uniform, wave


def julia(c: Generator) -> Renderer:
    """Escape time of z^2 + k, with k just outside the Mandelbrot set's main bulbs."""
    angle, stretch = number(c, 0, 2 * math.pi), number(c, 1.0, 1.12)
    bulb = 0.5 * complex(math.cos(angle), math.sin(angle)) - 0.25 * complex(math.cos(2 * angle), math.sin(2 * angle))
    k = bulb * stretch if number(c, 0, 1) < 0.7 else complex(-1, 0) + (bulb + 1) * 0.1
    zoom, bands = number(c, 1.0, 1.5), integer(c, 0, 1)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        kx = k.real + jitter(g, 0.008, len(x), 1, 1)
        ky = k.imag + jitter(g, 0.008, len(x), 1, 1)
        zx, zy, time = zoom * x, zoom * y, torch.zeros_like(x)
        for _ in range(24):
            zx, zy = (zx * zx - zy * zy + kx).clamp(-9, 9), (2 * zx * zy + ky).clamp(-9, 9)
            time += (zx * zx + zy * zy < 4).float()
        return torch.sin(time * 0.8) if bands else (time / 24).sqrt()

    return render


def cppn(c: Generator) -> Renderer:
    """Random three-layer network of the coordinates with mixed activations."""
    width, scale = 10, number(c, 1.5, 3.5)
    first, second = scale * jitter(c, 1, width, 3), jitter(c, 1.4 / width**0.5, width, width)
    bias, last = jitter(c, 1, width, 1, 1), jitter(c, 1, width)

    def act(value: Tensor) -> Tensor:
        a, b, d = value.split([4, 3, 3], 1)
        return torch.cat([torch.sin(2 * a), torch.tanh(2 * b), torch.exp(-(d**2))], 1)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        inputs = torch.stack([x, y, (x * x + y * y).sqrt()], 1)
        shaken = first + jitter(g, 0.12, len(x), width, 3)
        hidden = act(torch.einsum("nwi,nihv->nwhv", shaken, inputs) + bias)
        return torch.einsum("w,nwhv->nhv", last, act(torch.einsum("ow,nwhv->nohv", 1.5 * second, hidden)))

    return render


def grating(c: Generator) -> Renderer:
    """One to three superposed or multiplied waves of fixed frequencies, angles and forms."""
    count, product = integer(c, 1, 3), integer(c, 0, 1)
    frequency, angle = uniform(c, 5, 22, count), uniform(c, 0, math.pi, count)
    forms = [integer(c, 0, 3) for _ in range(count)]
    bend, bend_frequency = number(c, 0, 1.5), number(c, 2, 7)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        total = torch.full_like(x, float(product))
        for f, a, form in zip(frequency.tolist(), angle.tolist(), forms, strict=True):
            phase = uniform(g, 0, 2 * math.pi, len(x), 1, 1)
            along, across = x * math.cos(a) + y * math.sin(a), y * math.cos(a) - x * math.sin(a)
            value = wave(f * along + bend * torch.sin(bend_frequency * across + 2 * phase) + phase, form)
            total = total * value if product else total + value
        return total

    return render


def quasicrystal(c: Generator) -> Renderer:
    """Plane waves in n equally spaced directions, shown as they are, folded or cut."""
    count, frequency, mode = integer(c, 3, 8), number(c, 7, 20), integer(c, 0, 2)
    level, start = number(c, -0.4, 0.6), number(c, 0, math.pi)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        cx, cy = jitter(g, 0.5, len(x), 1, 1), jitter(g, 0.5, len(x), 1, 1)
        angles = [start + math.pi * i / count for i in range(count)]
        total = sum(torch.cos(frequency * ((x - cx) * math.cos(a) + (y - cy) * math.sin(a))) for a in angles)
        total = torch.as_tensor(total) / count**0.5
        return (total, total.abs(), soft(total - level, 0.3))[mode]

    return render


def voronoi(c: Generator) -> Renderer:
    """Cells around random points: a class is the density, metric, anisotropy and which distance is shown."""
    count, power, mode = integer(c, 5, 26), (1.0, 2.0, 8.0)[integer(c, 0, 2)], integer(c, 0, 3)
    squeeze, order = number(c, 0.5, 2), number(c, 0, 1)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        n, rows = len(x), math.isqrt(count) + 1
        index = torch.arange(count)
        lattice = torch.stack([index % rows, index // rows], -1) * (2.4 / rows) - 1.0
        px, py = (order * lattice + (1 - order) * uniform(g, -1.1, 1.1, n, count, 2) + jitter(g, 0.08, n, 1, 2)).unbind(
            -1
        )
        gaps = torch.stack(
            [
                ((x - px[:, i, None, None]).abs() * squeeze) ** power
                + ((y - py[:, i, None, None]).abs() / squeeze) ** power
                for i in range(count)
            ]
        )
        near, which = gaps.topk(2, 0, largest=False)
        near = near ** (1 / power)
        if mode == 3:  # flat cells
            return torch.gather(uniform(g, 0, 1, n, count), 1, which[0].flatten(1)).view_as(x)
        return (near[0], near[1] - near[0], soft(near[1] - near[0] - 0.1, 0.08))[mode]

    return render


def spectrum(c: Generator) -> Renderer:
    """Filtered white noise: a class is the spectral slope, band, orientation and nonlinearity."""
    slope, band, sharp = number(c, 0.8, 2.6), number(c, 0, 0.22), number(c, 8, 40)
    angle, stretch, mode = number(c, 0, math.pi), number(c, 1, 4), integer(c, 0, 3)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        side = x.shape[-1]
        fy, fx = torch.meshgrid(torch.fft.fftfreq(side), torch.fft.rfftfreq(side), indexing="ij")
        u, v = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle) - fx * math.sin(angle)
        radius = (u**2 * stretch + v**2 / stretch).sqrt()
        gain = (radius + 0.015) ** -slope if band < 0.05 else torch.exp(-((sharp * (radius - band)) ** 2))
        gain[0, 0] = 0
        field = torch.fft.irfft2(torch.fft.rfft2(jitter(g, 1, len(x), side, side)) * gain, s=(side, side))
        field = field / field.std((1, 2), keepdim=True)
        return (field, -field.abs(), soft(field, 0.5), torch.sin(4 * field))[mode].clamp(-2.5, 2.5)

    return render


def radial(c: Generator) -> Renderer:
    """Rings, rays and spirals: a wave of radius and angle."""
    arms, form, log = integer(c, 0, 9), integer(c, 0, 3), integer(c, 0, 1)
    pull, twist = number(c, 3, 20), number(c, -1, 1)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        x, y = x - jitter(g, 0.1, len(x), 1, 1), y - jitter(g, 0.1, len(x), 1, 1)
        r, theta = (x * x + y * y + 1e-4).sqrt(), torch.atan2(y, x)
        grow = 0.5 * r.log() if log else r
        phase = arms * theta + (pull if arms == 0 else pull * twist) * grow + uniform(g, 0, 6.28, len(x), 1, 1)
        return wave(phase, form)

    return render


def tiling(c: Generator) -> Renderer:
    """Small binary motif repeated on a lattice, plain, shifted like bricks, or mirrored."""
    side, mode = integer(c, 3, 6), integer(c, 0, 2)
    repeats, motif = number(c, 1.5, 18 / (side + 1.5)), (uniform(c, 0, 1, side, side) > 0.55).float()

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        u, v = ((k / 2 + 2) * repeats + uniform(g, 0, 1, len(x), 1, 1) for k in (x, y))
        if mode == 1:
            u = u + 0.5 * (v.floor() % 2)
        if mode == 2:
            u, v = 2 * (u / 2 - (u / 2).round()).abs() * 0.999, 2 * (v / 2 - (v / 2).round()).abs() * 0.999
        return motif[(v.frac() * side).long(), (u.frac() * side).long()]

    return render


def truchet(c: Generator) -> Renderer:
    """Randomly turned tiles with arcs, diagonals, wedges or bars."""
    cells, kind, bias, thick = integer(c, 3, 8), integer(c, 0, 3), number(c, 0.1, 0.9), number(c, 0.1, 0.2)

    def render(g: Generator, x: Tensor, y: Tensor) -> Tensor:
        u, v = ((x + 1) / 2).clamp(0, 0.999) * cells, ((y + 1) / 2).clamp(0, 0.999) * cells
        flips = (uniform(g, 0, 1, len(x), cells * cells) < bias).float()
        flip = torch.gather(flips, 1, (v.long() * cells + u.long()).flatten(1)).view_as(x) > 0
        a, b = torch.where(flip, u.frac(), 1 - u.frac()), v.frac()
        arcs = torch.minimum(((a * a + b * b).sqrt() - 0.5).abs(), (((1 - a) ** 2 + (1 - b) ** 2).sqrt() - 0.5).abs())
        bar = torch.where(flip, (u.frac() - 0.5).abs(), (b - 0.5).abs())
        return (
            soft(thick - arcs, 0.15),
            soft(thick - (a - b).abs(), 0.15),
            (a > b).float(),
            soft(thick - bar, 0.15),
        )[kind]

    return render
