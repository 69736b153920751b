"""Trains the source model that ships with the package and writes its weights and facts.

    python scripts/train_embedded_source.py --seed 0 --output reprogram/weights

The images are made here from formulas (``embedded_classes``); nothing is downloaded. Same seed, thread count and
versions: same weights.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from embedded_classes import FAMILIES, IMAGE_SIZE, class_names, render_classes
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from reprogram.sources.embedded import EmbeddedNetwork

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
FRESH_SEED_OFFSET = 500_000  # instance seeds of the fresh images; training uses the seed itself


def build_pool(per_family: int, count: int, class_seed: int, instance_seed: int) -> tuple[Tensor, Tensor]:
    """Renders ``count`` grey patterns of each class.

    Shapes: patterns [K * count, 64, 64] uint8, labels [K * count] int64, ordered by class.
    """
    patterns = torch.cat(list(render_classes(per_family, count, class_seed, instance_seed)))
    return patterns, torch.arange(len(patterns)) // count


def augment(patterns: Tensor, g: Generator) -> Tensor:
    """Turns grey patterns into coloured, placed, disturbed pictures: the nuisances a class must survive.

    They are mild on purpose: what a network is made blind to cannot be used by a later task. Rotation stays within 12
    degrees and bright stays bright, so orientation (a 6 is no 9) and grey levels remain visible.

    Shapes: [B, 64, 64] uint8 -> [B, 3, 64, 64] float32 in [0, 1].
    """
    n, side = len(patterns), patterns.shape[-1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((n, *shape), generator=g)

    def chosen(probability: float, *shape: int) -> Tensor:
        return torch.rand((n, *shape), generator=g) < probability

    # Placement: half fill the canvas, the others sit on it, down to half its side and at most an eighth off centre.
    size = torch.where(chosen(0.5), uniform(0.9, 1.1), uniform(0.5, 0.9))
    angle, aspect = uniform(-0.2, 0.2), uniform(0.9, 1.1)
    shift = uniform(-0.5, 0.5, 2) * (1.2 - size).clamp(max=0.5)[:, None]
    inverse = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).view(n, 2, 2)
    inverse = inverse * (torch.stack([aspect, 1 / aspect], -1) / size[:, None])[:, :, None]
    theta = torch.cat([inverse, -inverse @ shift[..., None]], -1)
    grid = F.affine_grid(theta, [n, 1, side, side], align_corners=False)
    grey = patterns[:, None].float() / 255
    layers = F.grid_sample(torch.cat([grey, torch.ones_like(grey)], 1), grid, align_corners=False)
    inside, pattern = layers[:, 1:], layers[:, :1] / layers[:, 1:].clamp(min=1e-3)

    # Colours: two random ends, each channel with its own curve; some stay grey.
    dark, light = uniform(0, 0.4, 3, 1, 1), uniform(0.6, 1, 3, 1, 1)
    grey_only = chosen(0.5, 1, 1, 1)
    dark, light = (torch.where(grey_only, c.mean(1, keepdim=True), c) for c in (dark, light))
    curve = torch.where(grey_only, uniform(0.8, 1.25, 1, 1, 1), uniform(0.7, 1.4, 3, 1, 1))
    image = dark + (light - dark) * pattern.clamp(1e-4, 1) ** curve
    # Around it: the pattern's own ground, another colour, or coarse noise.
    coarse = F.interpolate(uniform(0, 1, 3, 5, 5), size=(side, side), mode="bilinear")
    around = torch.where(chosen(0.5, 1, 1, 1), dark, torch.where(chosen(0.7, 1, 1, 1), uniform(0, 1, 3, 1, 1), coarse))
    image = torch.lerp(around, image, inside)

    # Disturbances: one occluding rectangle, less contrast, blur, pixel noise.
    centre, half = uniform(-1, 1, 2, 1, 1), uniform(0.1, 0.3, 2, 1, 1)
    line = torch.linspace(-1, 1, side)
    covered = ((line[:, None] - centre[:, :1]).abs() < half[:, :1]) & ((line - centre[:, 1:]).abs() < half[:, 1:])
    image = torch.where(covered & chosen(0.2, 1, 1, 1), uniform(0, 1, 3, 1, 1), image)
    image = 0.5 + (image - 0.5) * uniform(0.5, 1.1, 1, 1, 1)
    image = torch.where(chosen(0.25, 1, 1, 1), F.avg_pool2d(image, 3, 1, 1, count_include_pad=False), image)
    noise = torch.randn(image.shape, generator=g) * (uniform(0, 0.1, 1, 1, 1) * chosen(0.5, 1, 1, 1))
    return (image + noise).clamp(0, 1)


def normalise(images: Tensor) -> Tensor:
    """Shapes: [B, 3, H, W] in [0, 1] -> the same, as the network takes it."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def train(network: nn.Module, patterns: Tensor, labels: Tensor, args: argparse.Namespace) -> None:
    """AdamW with a one-cycle learning rate for ``args.steps`` steps."""
    g = Generator().manual_seed(args.seed)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.12)
    started, running = time.perf_counter(), math.log(int(labels[-1]) + 1)
    network.train()
    for step in range(args.steps):
        rows = torch.randint(len(labels), (args.batch_size,), generator=g)
        images = normalise(augment(patterns[rows], g))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running += 0.02 * (loss.item() - running)
        if (step + 1) % 50 == 0:
            elapsed = time.perf_counter() - started
            print(f"step {step + 1}/{args.steps}  loss {running:.3f}  {elapsed:.0f} s", flush=True)


@torch.inference_mode()
def fresh_accuracy(network: nn.Module, args: argparse.Namespace) -> dict[str, float]:
    """Accuracy by family on newly generated and newly disturbed images of the same classes."""
    seed = args.seed + FRESH_SEED_OFFSET
    patterns, labels = build_pool(args.per_family, 16, args.class_seed, seed)
    g = Generator().manual_seed(seed)
    network.eval()
    chunks = zip(patterns.split(256), labels.split(256), strict=True)
    hits = torch.cat([network(normalise(augment(p, g))).argmax(1) == y for p, y in chunks]).float()
    families = hits.view(len(FAMILIES), -1).mean(1).tolist()
    return {"all": hits.mean().item()} | {f.__name__: v for f, v in zip(FAMILIES, families, strict=True)}


def main() -> None:
    """Generates, trains, measures and writes ``embedded.safetensors`` and ``embedded.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="weights, order, instances and disturbances")
    parser.add_argument("--class-seed", type=int, default=0, help="formulas of the classes")
    parser.add_argument("--per-family", type=int, default=16, help="classes in each family")
    parser.add_argument("--pool", type=int, default=160, help="patterns rendered per class")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of the cycle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="faster where the CPU has AMX, much slower elsewhere")
    parser.add_argument("--output", type=Path, default=Path("reprogram/weights"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.perf_counter()

    patterns, labels = build_pool(args.per_family, args.pool, args.class_seed, args.seed)
    print(f"{len(labels)} patterns of {int(labels[-1]) + 1} classes, {time.perf_counter() - started:.0f} s", flush=True)
    names = class_names(args.per_family)
    network = EmbeddedNetwork(len(names)).to(memory_format=torch.channels_last)
    train(network, patterns, labels, args)
    seconds = time.perf_counter() - started

    network.half().float()  # what is measured is what is shipped
    accuracy = fresh_accuracy(network, args)
    args.output.mkdir(parents=True, exist_ok=True)
    state = {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in network.to(memory_format=torch.contiguous_format).state_dict().items()
    }
    save_file(state, args.output / "embedded.safetensors")
    card = {
        "name": "embedded",
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "mean": MEAN,
        "std": STD,
        "parameters": sum(p.numel() for p in network.parameters()),
        "training": {k: v for k, v in vars(args).items() if k != "output"} | {"seconds": round(seconds)},
        "torch": torch.__version__,
        "fresh_accuracy": {k: round(v, 4) for k, v in accuracy.items()},
        "class_names": names,
    }
    (args.output / "embedded.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card["fresh_accuracy"]))


if __name__ == "__main__":
    main()
