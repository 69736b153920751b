"""Draws the pictures of docs/catalogue.md: what programs do to a digit, what mappings make of the same answers.

    python scripts/draw_catalogue.py
    python scripts/draw_catalogue.py frame patch

Without names it draws all. The digits come with scikit-learn and the source with the package, so nothing is downloaded;
on one thread, as here, the same versions draw the same pictures. It takes about a minute.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from reprogram import build, sourcing
from reprogram.classifier import ReprogrammedClassifier
from reprogram.commands.launch import config_folder
from reprogram.data.base import TaskData
from reprogram.data.loader import to_float
from reprogram.evaluation.pictures import _figure, _show_image
from reprogram.mappings.base import LabelMapping
from reprogram.sources.base import SourceModel
from reprogram.types import Batch

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "catalogue"
WIDTH, DPI, COLOURS = 4.5, 160, 128  # inches; a page shows pictures at half their pixels; colours of the palette
STEPS, BATCH, REFIT = 100, 16, 25  # of a training; steps between two refits
ANSWERS = 720  # digits that mappings are fitted to
DIGITS = (3, 7)
COLUMNS = 20  # source classes of a heat map
GREY, PICKED, OTHER = "#555555", "#d9480f", "#1a7f37"


# ---------------------------------------------------------------------------------------------------------- trainings


def composed(*overrides: str) -> build.Config:
    """A configuration on digits and the embedded source."""
    common = ("data=digits", "source.precision=float32", "logger=none", "mapping=bayesian_plus")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return build.plain(compose("train", [*common, *overrides]))


@cache
def task() -> TaskData:
    """The digits, split."""
    return build.task_data(composed())


@cache
def source() -> SourceModel:
    """The embedded source."""
    return sourcing.source(composed(), "cpu", task().spec)


@cache
def training_digits() -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] uint8 and targets [N] of the training split, in a mixed order."""
    train = task().splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train.images[order], train.targets[order]


@cache
def shown_digits() -> Tensor:
    """One test image of each digit that is shown: [2, 3, 8, 8] in [0, 1]."""
    test = task().splits["test"]
    rows = [int((test.targets == digit).nonzero()[0]) for digit in DIGITS]
    return to_float(test.images[rows])


def untrained(*overrides: str) -> tuple[build.Config, ReprogrammedClassifier]:
    """A classifier before its training, and its configuration."""
    cfg = build.self_contained(composed(*overrides), source().spec, task().spec)
    return cfg, build.classifier(cfg, source(), task().spec, "cpu")


@cache
def trained(*overrides: str) -> tuple[ReprogrammedClassifier, Tensor]:
    """A classifier after a short training, and what it made of the shown digits before: [2, 3, H, W]."""
    cfg, model = untrained(*overrides)
    before = canvases(model)
    images, targets = training_digits()
    counts = torch.bincount(targets)
    module = build.module(cfg, model, build.estimator(cfg, model.program), counts, STEPS)
    made: Any = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for step in range(STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(targets)
        batch = Batch(images[rows], targets[rows], torch.full((BATCH,), 1 / BATCH), rows)
        if step == 0:
            fit(model.mapping, *answers(model, 16 * BATCH))
        surrogate = module.training_step(module.on_after_batch_transfer(batch, 0), step)
        optimizer.zero_grad()
        surrogate.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % REFIT == 0:
            model.mapping.refit()
    return model, before


@torch.no_grad()
def canvases(model: ReprogrammedClassifier) -> Tensor:
    """The shown digits as the source sees them: [2, 3, H, W]."""
    return model.compose(shown_digits())


@torch.no_grad()
def answers(model: ReprogrammedClassifier, count: int = ANSWERS) -> tuple[Tensor, Tensor]:
    """The source's log-probabilities [N, K_s] of so many training digits in a program, and their targets [N]."""
    images, targets = (part[:count] for part in training_digits())
    parts = [model.source(model.compose(to_float(part))) for part in images.split(120)]
    return torch.cat(parts), targets


def fit(mapping: LabelMapping, log_probs: Tensor, targets: Tensor) -> LabelMapping:
    """A mapping after its fit to answers."""
    mapping.observe(log_probs, targets)
    mapping.refit()
    return mapping


# ------------------------------------------------------------------------------------------------------------- strips


@dataclass(frozen=True)
class Strip:
    """Two digits in a trained program, beside a third picture.

    Args:
        overrides: Of the training.
        heading: Above the two digits.
        without: Overrides of a training without an option, whose canvas stands first; ``None``: the same program before
            its training does.
        adds: Whether a second row shows what the program adds.
    """

    overrides: tuple[str, ...]
    heading: str = "trained"
    without: tuple[str, ...] | None = None
    adds: bool = False


def draw_strip(name: str, strip: Strip) -> None:
    """Draws a program, or an option of one."""
    model, before = trained(*strip.overrides)
    after = canvases(model)
    first, heading = before[0], "before training"
    if strip.without is not None:
        first, heading = canvases(trained(*strip.without)[0])[0], "without"
    figure = _figure(WIDTH, 3.6 if strip.adds else 1.95 + 0.15 * strip.heading.count("\n"))
    grid = figure.subplots(1 + strip.adds, 3, squeeze=False)
    scale = getattr(model.program, "scale", None)
    for axes, canvas, title, digit, zoom in zip(
        grid[0],
        (first, *after),
        (heading, strip.heading, strip.heading),
        (DIGITS[0], *DIGITS),
        (0, 1, 1),
        strict=True,
    ):
        side = model.program.placement.size[0]
        if scale is not None:
            side = round(side * float(scale(model.program.theta.detach() * zoom)))
        _show(axes, canvas, title, f"a {digit}" + (f", {side} pixels high" if scale is not None else ""))
    if strip.adds:
        grid[1, 0].set_axis_off()
        grid[1, 0].text(0.5, 0.5, "what it adds\n(grey: nothing)", ha="center", va="center", fontsize=10, color=GREY)
        for axes, canvas, placed, digit in zip(grid[1, 1:], after, before, DIGITS, strict=True):
            _show(axes, 0.5 + 0.75 * (canvas - placed), "", f"to a {digit}")
    save(figure, name)


def _show(axes: Axes, canvas: Tensor, title: str, caption: str) -> None:
    _show_image(axes, canvas.numpy())
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(caption, fontsize=9, color=GREY)
    for spine in axes.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.6)


# ---------------------------------------------------------------------------------------------------------- heat maps


@dataclass(frozen=True, eq=False)
class Heat:
    """Numbers of source classes for target classes.

    Args:
        title: Above it.
        values: [K_t, K_s].
        picks: [K_t, m] source classes to outline, if any.
        others: Likewise, dotted.
    """

    title: str
    values: Tensor
    picks: Tensor | None = None
    others: Tensor | None = None


def draw_heats(name: str, heats: Sequence[Heat], columns: Sequence[int]) -> None:
    """Draws heat maps, one above the other, of the same source classes."""
    names = [source().spec.class_names[column] for column in columns]
    figure = _figure(WIDTH, 1.75 * len(heats) + 1.0)
    rows = figure.subplots(len(heats), 1, squeeze=False, sharex=True)[:, 0]
    for axes, heat in zip(rows, heats, strict=True):
        shown = heat.values[:, columns].double().numpy()
        signed = shown.min() < 0
        largest = float(np.abs(shown).max())
        limits = {"vmin": -largest if signed else 0, "vmax": largest}
        picture = axes.imshow(shown, cmap="RdBu_r" if signed else "Blues", aspect="auto", **limits)
        for picks, colour, style in ((heat.others, OTHER, ":"), (heat.picks, PICKED, "-")):
            for target, owned in enumerate([] if picks is None else picks.tolist()):
                for column in (columns.index(one) for one in owned if one in columns):
                    corner = (column - 0.5, target - 0.5)
                    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, ls=style, lw=1.6, zorder=3))
        axes.set_title(heat.title, fontsize=9.5)
        axes.set_yticks(range(len(shown)), task().spec.class_names, fontsize=7)
        axes.set_ylabel("digit", fontsize=8, color=GREY)
        axes.tick_params(length=2)
        bar = figure.colorbar(picture, ax=axes, pad=0.02, aspect=12, ticks=[-largest, 0, largest] if signed else None)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.locator = mpl.ticker.MaxNLocator(3)
    rows[-1].set_xticks(range(len(names)), names, fontsize=7.5, rotation=90)
    rows[-1].set_xlabel("source class", fontsize=8, color=GREY)
    save(figure, name)


def shares(log_probs: Tensor, targets: Tensor) -> Tensor:
    """How often a digit is taken for each source class: [K_t, K_s], rows of sum 1."""
    pairs = targets * log_probs.shape[1] + log_probs.argmax(dim=1)
    counts = torch.bincount(pairs, minlength=task().spec.num_classes * log_probs.shape[1])
    counts = counts.view(-1, log_probs.shape[1]).double()
    return counts / counts.sum(dim=1, keepdim=True)


def in_order(values: Tensor, columns: Sequence[int]) -> list[int]:
    """Source classes by the digit that they say most of, then by how much: a diagonal, more or less."""
    part = values[:, columns]
    order = sorted(range(len(columns)), key=lambda at: (int(part[:, at].argmax()), -float(part[:, at].max())))
    return [columns[at] for at in order]


def relevant(values: Tensor, first: Sequence[int] = ()) -> list[int]:
    """The source classes with the largest sums of values [K_t, K_s], after those that must be there, in order."""
    rest = [
        column for column in values.sum(dim=0).argsort(descending=True, stable=True).tolist() if column not in first
    ]
    return in_order(values, [*first, *rest[: COLUMNS - len(first)]])


@cache
def plain_answers() -> tuple[Tensor, Tensor]:
    """Answers with the untrained frame: what all mappings are fitted to."""
    return answers(untrained("program=frame")[1])


def fitted(*overrides: str, to: tuple[Tensor, Tensor] | None = None) -> Any:
    """A mapping, fitted to the same answers as the others."""
    return fit(untrained(*overrides)[1].mapping, *(plain_answers() if to is None else to))


def draw_answers(name: str) -> None:
    """What the other heat maps are made of."""
    share = shares(*plain_answers())
    draw_heats(name, [Heat("share of a digit's images that the source takes for a class", share)], relevant(share))


def draw_assignment(name: str) -> None:
    """First and random choice."""
    picks = {one: fitted("mapping=assignment", f"mapping.choice={one}").assignment for one in ("first", "random")}
    heats = [Heat(f"choice={one}: weights", one_hot(pick)) for one, pick in picks.items()]
    draw_heats(name, heats, torch.cat([pick.flatten() for pick in picks.values()]).unique(sorted=False).tolist())


def draw_frequency(name: str) -> None:
    """FLM, and ILM after a training."""
    model, _ = trained("program=frame", "mapping=frequency")
    later = answers(model)
    once, again = fitted("mapping=frequency").assignment, fitted("mapping=frequency", to=later).assignment
    columns = list(dict.fromkeys([*again.flatten().tolist(), *once.flatten().tolist()]))
    heats = [
        Heat("refresh=once (FLM): counted before training", shares(*plain_answers()), once),
        Heat("refresh=1 (ILM): counted again, here after training", shares(*later), again),
    ]
    draw_heats(name, heats, columns)


def draw_optimal(name: str) -> None:
    """Greedy and optimal assignment."""
    log_probs, targets = plain_answers()
    share, taken = shares(log_probs, targets), log_probs.argmax(dim=1, keepdim=True)
    greedy, optimal = (fitted("mapping=frequency", f"mapping.assign={one}").assignment for one in ("greedy", "optimal"))
    right = [int((pick[targets] == taken).sum()) for pick in (optimal, greedy)]
    title = f"optimal (outlined): {right[0]} images right; greedy (dotted): {right[1]}"
    must = torch.cat([greedy, optimal]).unique().tolist()
    draw_heats(name, [Heat(title, share, optimal, greedy)], relevant(share, must))


def draw_weights(name: str) -> None:
    """Learned weights of several source classes."""
    model, _ = trained(
        "program=frame", "mapping=frequency", "mapping.per_class=2", "mapping.learn=true", "optimizer.mapping_lr=0.03"
    )
    mapping: Any = model.mapping
    found, weights = mapping.assignment, mapping.weighting.logits.detach().softmax(dim=1)
    values = one_hot(found, weights)
    temperature = float(mapping.weighting.log_temperature.detach().exp())
    draw_heats(name, [Heat(f"learned weights; temperature {temperature:.2f}", values)], found.flatten().tolist())


def one_hot(picks: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weights [K_t, K_s] of an assignment [K_t, m]: 1/m each, unless given."""
    weights = torch.full(picks.shape, 1 / picks.shape[1]) if weights is None else weights
    return torch.zeros(len(picks), source().spec.num_classes).scatter(1, picks, weights)


def draw_weight(name: str, title: str, *overrides: str) -> None:
    """The matrix of a Bayesian or a linear mapping, over the source classes that are seen most often."""
    draw_heats(name, [Heat(title, fitted(*overrides).weight.detach())], relevant(shares(*plain_answers())))


# ----------------------------------------------------------------------------------------------------------- diagrams


def draw_refresh(name: str) -> None:
    """When a mapping is fitted, and to what."""
    passes = {"never": [], "once": [0], "validation": [0, 1, 2, 3, 4], "1": [0], "2": [0], "once, refit_at_end": [0, 4]}
    steps = {"1": [1, 2, 3], "2": [2]}
    figure = _figure(WIDTH, 2.9)
    axes = figure.subplots()
    for row, (choice, at) in enumerate(passes.items()):
        axes.axhline(row, color="#dddddd", lw=1, zorder=0)
        axes.scatter(
            at, [row] * len(at), s=60, color=PICKED, label="on a pass: one query an image" if row == 1 else None
        )
        free = steps.get(choice, [])
        label = "on the answers to training steps: no query" if choice == "1" else None
        axes.scatter(free, [row] * len(free), s=60, facecolor="white", edgecolor=PICKED, linewidth=1.6, label=label)
    axes.set_yticks(range(len(passes)), list(passes), fontsize=9)
    axes.set_xticks(range(5), ["start", *[f"after\nepoch {epoch}" for epoch in (1, 2, 3)], "end"], fontsize=9)
    axes.set_xlim(-0.25, 4.25)
    axes.set_ylim(len(passes) - 0.5, -0.5)
    axes.set_ylabel("mapping.refresh", fontsize=9, color=GREY)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=9, frameon=False, handletextpad=0.2)
    save(figure, name)


def draw_decay(name: str) -> None:
    """What a refit still counts of earlier epochs."""
    epochs = np.arange(1, 7)
    figure = _figure(WIDTH, 2.2)
    axes = figure.subplots()
    for at, (decay, colour) in enumerate(((0.0, "#bcd7f0"), (0.5, "#4a90c8"), (0.9, "#0b3d6f"))):
        axes.bar(epochs + 0.27 * (at - 1), decay ** (epochs[-1] - epochs), 0.25, color=colour, label=f"decay={decay:g}")
    axes.set_xticks(epochs, [f"epoch {epoch}" for epoch in epochs], fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("weight of its answers", fontsize=9, color=GREY)
    axes.set_title("at the refit that follows epoch 6 (refresh=1)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    save(figure, name)


def draw_semantic(name: str) -> None:
    """How names become an assignment: a scheme, since CLIP's weights do not come with the package."""
    figure = _figure(WIDTH, 1.8)
    axes = figure.subplots()
    axes.set_xlim(-0.5, 100.5)
    axes.set_ylim(3.5, 38.5)
    axes.set_axis_off()
    boxes = {
        "source": (0, 24, 23, 14, "names of\nthe source\nclasses"),
        "target": (0, 4, 23, 14, "names of\nthe target\nclasses"),
        "tower": (30, 11, 23, 20, 'CLIP\ntext tower\n"a photo\nof a {}."'),
        "cosines": (60, 14, 16, 14, "cosines\nK_s x K_t"),
        "picks": (83, 11, 17, 20, "greedy or\noptimal:\nm for each\ntarget"),
    }
    for key, (left, bottom, width, height, text) in boxes.items():
        colour = "#dbe9f6" if key != "picks" else "#fde3d3"
        axes.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, edgecolor=GREY, lw=1))
        axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=9)
    for start, end in (((23, 31), (30, 25)), ((23, 11), (30, 17)), ((53, 21), (60, 21)), ((76, 21), (83, 21))):
        axes.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=GREY, shrinkA=0, shrinkB=0)
        )
    save(figure, name)


def save(figure: Figure, name: str) -> None:
    """Writes a figure as a PNG with a palette: noise of many colours would be ten times as large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    picture = Image.open(drawn).convert("RGB")
    picture = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE, kmeans=4)
    picture.save(FOLDER / f"{name}.png", optimize=True)


# --------------------------------------------------------------------------------------------------------------- list


def pictures(folder: Path) -> dict[str, Callable[[str], None]]:
    """What is drawn, by name; a mask needs a file."""
    mask = folder / "disc.png"
    disc = Image.new("L", (64, 64))
    ImageDraw.Draw(disc).ellipse((6, 6, 57, 57), fill=255)
    disc.save(mask)
    frame, full = ("program=frame", "optimizer.lr=0.15"), ("program=full",)
    slow = ("optimizer.lr=0.01",)  # where each number moves many pixels
    strips = {
        "frame": Strip(frame),
        "scaled_frame": Strip(("program=scaled_frame", "program.size=32")),
        "full": Strip(full, adds=True),
        "patch": Strip(("program=patch",), adds=True),
        "patch_random": Strip(("program=patch", "program.at=random"), adds=True),
        "sample_masks": Strip(("program=sample_masks", *slow), adds=True),
        "coordinator": Strip(("program=coordinator", *slow), adds=True),
        "resolution": Strip(("program=frame", "program.resolution=8"), "resolution=8", frame),
        "dct": Strip(("program=frame", "program.resolution=8", "program.basis=dct", *slow), "basis=dct", frame),
        "tied": Strip((*frame, "program.tied=true"), "tied=true", frame),
        "mask": Strip((*full, f"program.mask={mask}"), "mask=disc.png", full),
        "strength": Strip((*full, "program.strength=0.2"), "strength=0.2", full),
        "max_norm": Strip((*full, "program.max_norm=12"), "max_norm=12", full),
        "total_variation": Strip(
            (*frame, "regularizer=total_variation", "regularizer.weight=5"), "total_variation\nweight=5", frame
        ),
        "squared_norm": Strip(
            (*frame, "regularizer=squared_norm", "regularizer.weight=0.0002"), "squared_norm\nweight=0.0002", frame
        ),
    }
    weights = "weights of source classes"
    return {
        **{name: partial(draw_strip, strip=strip) for name, strip in strips.items()},
        "answers": draw_answers,
        "assignment": draw_assignment,
        "frequency": draw_frequency,
        "optimal": draw_optimal,
        "learned_weights": draw_weights,
        "bayesian": lambda name: draw_weight(name, f"BLM: {weights}", "mapping=bayesian"),
        "bayesian_plus": lambda name: draw_weight(name, f"BLM+: {weights}", "mapping=bayesian_plus"),
        "linear": lambda name: draw_weight(name, f"A: {weights}", "mapping=linear"),
        "semantic": draw_semantic,
        "refresh": draw_refresh,
        "decay": draw_decay,
    }


def main() -> None:
    """Reads the command line."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, mpl.rc_context({"text.parse_math": False}):
        known = pictures(Path(folder))
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [NAME ...]"
        )
        parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
        names = parser.parse_args().names or list(known)
        if unknown := [name for name in names if name not in known]:
            parser.error(f"no picture is called {', '.join(unknown)}; there are {', '.join(known)}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in names:
            known[name](name)
            print(FOLDER / f"{name}.png", (FOLDER / f"{name}.png").stat().st_size, "bytes", flush=True)


if __name__ == "__main__":
    main()
