"""Seconds of an epoch in the white box: ours, the loop that peers run, the bare network, and the matrix-multiply peak.

    REPROGRAM_ASSETS=DIR python scripts/benchmark_training.py run --output benchmarks
    REPROGRAM_ASSETS=DIR python scripts/benchmark_training.py agreement --output benchmarks
    REPROGRAM_ASSETS=DIR python scripts/benchmark_training.py report --output benchmarks

Every measurement is a process of its own, the variants take turns, and the median of the rounds is reported, so what
else the machine does meets all alike. The data are HAM10000 at 64 pixels, placed at 3/4 of a canvas of 224.

- ``plain``: an epoch of ILM-VP (``experiments/cnn/ilm_vp.py``, ``algorithms/flm_calculation.py``), and of BLM, SMM and
  AutoVP after it; written by us from its structure: images resized by PIL in two loader processes, float32, NCHW,
  BatchNorm as it comes, a pass over the training set for the label map, then the training pass.
- ``ours``: an epoch of ``Trainer.fit`` with module, trainer and mapping refresh of ``reprogram-train``, unvalidated.
- ``bare``: forward and backward (to the input) of the network that ours runs, on ready input: the limit.
- ``unfused``: the same of the network folded, channels_last, in bfloat16, but left to PyTorch's own autograd.
- ``matmul``: the largest rate of a product of two square matrices.
"""

import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarking import (
    Peak,
    command_line,
    composed,
    environment,
    measured,
    median,
    operators,
    ratio,
    read,
    timed,
    weights_of,
    write,
)

FILE = "training.json"
ROUNDS = 3
SOURCES = ("resnet18", "resnet50")
BATCH = 32
EXAMPLES = {"resnet18": 768, "resnet50": 320}  # of an epoch of ours
PLAIN_BATCHES = {"resnet18": 5, "resnet50": 2}  # of each pass
BATCHES = (8, 32, 64, 128)
SIZES = (64, 128, 224)
DATA = (256, 1024)
AGREEMENT_SEEDS = range(3)
LR = 0.01


def run(output: Path) -> None:
    """Measures what the record lacks, and writes after each part, so it can be stopped and repeated."""
    path = output / FILE
    record = read(path)
    record.setdefault("environment", environment())
    for source in SOURCES:
        if source not in record.setdefault("epoch", {}):
            variants = ("plain", "ours", "bare", "unfused")
            rounds = [{name: measured(__file__, name, source=source) for name in variants} for _ in range(ROUNDS)]
            record["epoch"][source] = rounds
            write(record, path)
    parts = {
        "matmul": lambda: [measured(__file__, "matmul") for _ in range(ROUNDS)],
        "batch": lambda: [{"batch": batch, **both(batch=batch)} for batch in BATCHES],
        "size": lambda: [{"size": size, **both(size=size)} for size in SIZES],
        "examples": lambda: [{"examples": count, **alone(examples=count)} for count in DATA],
        "processes": lambda: [{"processes": count, **alone(examples=1024, processes=count)} for count in (1, 2)],
    }
    for name, measure in parts.items():
        if name not in record:
            record[name] = measure()
            write(record, path)


def both(**case: int) -> dict[str, Any]:
    """Ours and its limit."""
    return {name: measured(__file__, name, source="resnet18", **case) for name in ("ours", "bare")}


def alone(**case: int) -> dict[str, Any]:
    """Ours on a small canvas."""
    return {"ours": measured(__file__, "ours", source="resnet18", size=128, **case)}


def agreement(output: Path) -> None:
    """Trains in bfloat16 and in float32, and scores the test split with either."""
    import tempfile

    import torch

    from reprogram import build, sourcing
    from reprogram.evaluation.scoring import score
    from reprogram.runs import train

    path = output / FILE
    record = read(path)
    record["agreement"] = {}
    for mapping in ("linear", "frequency"):
        found = record["agreement"][mapping] = []
        for seed in AGREEMENT_SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                runs = {}
                for precision in ("auto", "float32"):
                    cfg = composed(
                        "resnet18",
                        *(f"mapping={mapping}", f"source.precision={precision}", f"run_dir={folder}/{precision}"),
                        *("protocol.max_train=640", "protocol.max_val=200", "trainer.max_epochs=3"),
                        *("evaluation.baselines=[]", f"seed={seed}"),
                    )
                    runs[precision] = train(cfg)
                trained, data = runs["auto"].classifier, build.task_data(cfg)
                scores = {}
                for precision in ("bfloat16", "float32"):
                    cfg["source"]["precision"] = precision
                    trained.source = sourcing.source(cfg, "cpu", data.spec)
                    scores[precision] = score(trained, data.splits["test"], "test", 32, torch.device("cpu")).scores
                same = scores["bfloat16"].argmax(1) == scores["float32"].argmax(1)
                found.append(
                    {
                        "seed": seed,
                        "test_accuracy": {name: run.metrics["test"]["accuracy"]["value"] for name, run in runs.items()},
                        "top_1_agreement": float(same.mean()),
                        "test_images": len(same),
                        "largest_difference_of_a_probability": float(abs(scores["bfloat16"] - scores["float32"]).max()),
                    }
                )
                print(mapping, found[-1], flush=True)
                write(record, path)


# --- what a single process measures ---------------------------------------------------------------------------------


def data_file() -> Path:
    """HAM10000 at 64 pixels."""
    return Path(os.environ["REPROGRAM_ASSETS"], "data", "ham10000_64.npz")


def plain(source: str, batch: int = BATCH) -> dict[str, float]:
    """The loop of the peers."""
    import numpy as np
    import torch
    import torchvision
    from PIL import Image
    from safetensors.torch import load_file
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    with np.load(data_file()) as file:
        images, labels = file["images"], file["labels"]

    class Images(Dataset):
        def __init__(self) -> None:
            self.change = transforms.Compose([transforms.Resize((168, 168)), transforms.ToTensor()])

        def __len__(self) -> int:
            return PLAIN_BATCHES[source] * batch

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return self.change(Image.fromarray(images[row])), int(labels[row])

    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = nn.Parameter(torch.zeros(3, 224, 224))
            mask = torch.ones(3, 224, 224)
            mask[:, 28:196, 28:196] = 0
            self.register_buffer("mask", mask)
            self.normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.normalise(nn.functional.pad(x, (28, 28, 28, 28)) + torch.sigmoid(self.program) * self.mask)

    peak = Peak()
    network = torchvision.models.get_model(source)
    network.load_state_dict(load_file(weights_of(source)))
    network.requires_grad_(False).eval()
    prompt = Prompt()
    optimizer = torch.optim.Adam(prompt.parameters(), lr=LR)
    loader = DataLoader(Images(), batch, shuffle=True, num_workers=2, persistent_workers=True)
    network(prompt(torch.rand(batch, 3, 168, 168)))  # the first call sets things up
    list(loader)  # so does the first pass of the loader

    started = time.perf_counter()
    outputs, targets = [], []
    with torch.no_grad():
        for x, y in loader:
            outputs.append(network(prompt(x)))
            targets.append(y)
    predicted, wanted = torch.cat(outputs).argmax(1), torch.cat(targets)
    counts = torch.zeros(1000, 7)
    for one, other in zip(predicted.tolist(), wanted.tolist(), strict=True):
        counts[one, other] += 1
    sequence = torch.zeros(7, dtype=torch.long)
    for _ in range(7):
        place = int(counts.argmax())
        sequence[place % 7] = place // 7
        counts[place // 7, :] = counts[:, place % 7] = -1
    mapped = time.perf_counter()
    for x, y in loader:
        loss = nn.functional.cross_entropy(network(prompt(x))[:, sequence], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    ended = time.perf_counter()
    count = len(loader.dataset)  # type: ignore[arg-type]
    return {
        "seconds_per_image": (ended - started) / count,
        "label_map_share": (mapped - started) / (ended - started),
        "peak_mib": peak.mib(),
    }


def ours(
    source: str, batch: int = BATCH, size: int = 224, examples: int | None = None, processes: int = 1
) -> dict[str, float]:
    """One epoch as ``reprogram-train`` runs it, after one that is not counted."""
    import pytorch_lightning as pl
    import torch

    from reprogram import build, sourcing, trainers
    from reprogram.data.base import TaskData
    from reprogram.data.loader import BatchLoader
    from reprogram.training.mapping_refresh import MappingRefresh

    examples = examples or max(EXAMPLES[source], 4 * batch)
    cfg = composed(
        source,
        *(f"source.image_size=[{size},{size}]", f"data.batch_size={batch}", f"optimizer.lr={LR}"),
        *("trainer.max_epochs=2", f"trainer={'cpu' if processes == 1 else 'ddp_cpu'}"),
        "mapping=frequency",
    )
    data: TaskData = build.task_data(cfg)
    train = data.splits["train"].subset(range(examples))
    peak = Peak()
    model = build.classifier(cfg, sourcing.training_source(cfg, "cpu", data.spec), data.spec, "cpu")
    estimator = build.estimator(cfg, model.program)
    steps = 2 * -(-examples // batch)
    module = build.module(cfg, model, estimator, torch.ones(data.spec.num_classes), steps)

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    clock = Clock()
    trainer = trainers.trainer(cfg, None, [MappingRefresh(train.subset(range(batch)), batch), clock], [], Path("runs"))
    loader = BatchLoader(train, batch, True, 0, trainer.global_rank, trainer.world_size)
    trainer.fit(module, loader)
    if trainer.global_rank:
        sys.exit()
    return {"seconds_per_image": clock.seconds / examples, "peak_mib": peak.mib()}


def bare(source: str, batch: int = BATCH, size: int = 224, fused: bool = True) -> dict[str, float]:
    """Forward and backward of the network alone."""
    import torch

    from reprogram.memory import keep_freed_memory
    from reprogram.sources.prepared import PreparedSource
    from reprogram.sources.torchvision import torchvision_source

    peak = Peak()
    if fused:
        keep_freed_memory()
    made = PreparedSource(torchvision_source(source, str(weights_of(source)), image_size=[size, size]))
    network = made.network if fused else made.source.network
    images = torch.rand(batch, 3, size, size).to(made.dtype).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        given = images.detach().requires_grad_()
        with torch.autocast("cpu", made.dtype, enabled=made.dtype != torch.float32):
            logits = network(given)
        torch.autograd.grad(logits.sum(), given)

    return {"seconds_per_image": timed(step, batch), "peak_mib": peak.mib()}


def unfused(source: str) -> dict[str, float]:
    """The same, fused by nobody, with memory as the C library has it."""
    return bare(source, fused=False)


def matmul() -> dict[str, float]:
    """Multiplications and additions a second, of squares of 4096."""
    import torch

    found = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        one = torch.rand(4096, 4096, dtype=dtype)
        found[name] = 2 * 4096**3 / timed(lambda one=one: one @ one, 1)
    return found


def profile(output: Path) -> None:
    """Operators of one step by their own time, as a text table."""
    import torch

    from reprogram import build, sourcing
    from reprogram.types import Batch

    lines = []
    for source in SOURCES:
        cfg = composed(source, "mapping=frequency", f"data.batch_size={BATCH}")
        data = build.task_data(cfg)
        model = build.classifier(cfg, sourcing.training_source(cfg, "cpu", data.spec), data.spec, "cpu")
        module = build.module(cfg, model, build.estimator(cfg, model.program), torch.ones(data.spec.num_classes), 99)
        optimizer = module.configure_optimizers()["optimizer"]
        rows = torch.arange(BATCH)
        images, targets = data.splits["train"].images[rows], data.splits["train"].targets[rows]

        def step(module=module, optimizer=optimizer, images=images, targets=targets, rows=rows) -> None:
            batch = Batch(images, targets, torch.full((BATCH,), 1 / BATCH), rows)
            surrogate = module.training_step(module.on_after_batch_transfer(batch, 0), 0)
            optimizer.zero_grad()
            surrogate.backward()
            optimizer.step()

        lines += [f"White box, {source}, {BATCH} images of 224 pixels, {model.source.precision}", *operators(step), ""]
    (output / "training_profile.txt").write_text("\n".join(lines))
    print("\n".join(lines))


HEADING = """# White box: seconds of an epoch

HAM10000 (64 pixels, placed at 168 of 224), frame program, label map from counts (ILM), batches of 32. `plain` is the
loop that peers run, its label-map pass included; `ours` an epoch of `Trainer.fit`; `bare` forward and backward of the
very network that ours runs, fused, on input that is ready, so the limit; `unfused` the same network, folded,
channels_last and in the same precision, left to PyTorch and to the memory of the C library as it is.
Medians of {rounds} rounds in which the variants take turns,
each measurement a process of its own; ratios round by round (range in brackets). Memory: the peak of resident memory
above what was resident before the network was made. Made by

    {command}

on {device}, PyTorch {torch}, {threads} threads, {date}. All numbers: `training.json`.
"""


def report(output: Path) -> None:
    """Writes ``training.md`` and ``training.png``."""
    record = read(output / FILE)
    surroundings = record["environment"]
    facts = {name: surroundings[name] for name in ("command", "device", "threads", "date")}
    lines = [HEADING.format(rounds=ROUNDS, torch=surroundings["packages"]["torch"], **facts)]
    lines += [
        "| source | plain, images/s | ours | unfused | bare | plain / ours | unfused / ours | ours, of the limit "
        "| peak MiB, ours / bare |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for source, rounds in record["epoch"].items():
        rates = " | ".join(f"{1 / median(rounds, name):.1f}" for name in ("plain", "ours", "unfused", "bare"))
        memory = " / ".join(f"{median(rounds, name, 'peak_mib'):.0f}" for name in ("ours", "bare"))
        lines.append(
            f"| {source} | {rates} | {ratio(rounds, 'plain', 'ours')} | {ratio(rounds, 'unfused', 'ours')} | "
            f"{ratio(rounds, 'bare', 'ours')} | {memory} |"
        )
    peak = max(one["bfloat16"] for one in record["matmul"])
    lines += ["", _of_the_peak(record, peak), "", "## Against float32", ""]
    lines += [_agreement(mapping, found) for mapping, found in record.get("agreement", {}).items()]
    lines += ["", "## As the work grows (ResNet-18)", "", "![](training.png)", ""]
    lines += ["| batch | ours, images/s | of the limit | peak MiB, ours / bare |", "|---:|---:|---:|---:|"]
    lines += [_grown(row, "batch") for row in record["batch"]]
    lines += ["", "| canvas | ours, images/s | of the limit | peak MiB, ours / bare |", "|---:|---:|---:|---:|"]
    lines += [_grown(row, "size") for row in record["size"]]
    lines += ["", "| training images (128 pixels) | seconds an epoch | peak MiB |", "|---:|---:|---:|"]
    for row in record["examples"]:
        seconds = row["examples"] * row["ours"]["seconds_per_image"]
        lines.append(f"| {row['examples']} | {seconds:.2f} | {row['ours']['peak_mib']:.0f} |")
    lines += ["", "| processes (128 pixels, one core each, or one with both) | images/s |", "|---:|---:|"]
    lines += [f"| {row['processes']} | {1 / row['ours']['seconds_per_image']:.0f} |" for row in record["processes"]]
    (output / "training.md").write_text("\n".join(lines) + "\n")
    _draw(record, output / "training.png")
    print("\n".join(lines))


def _agreement(mapping: str, found: list[dict[str, Any]]) -> str:
    """What bfloat16 changes, over the seeds."""

    def listed(values: Iterable[float]) -> str:
        return ", ".join(f"{value:.3f}" for value in values)

    accuracies = {name: [one["test_accuracy"][name] for one in found] for name in ("auto", "float32")}
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    stayed = listed(one["top_1_agreement"] for one in found)
    return (
        f"- {mapping} mapping, ResNet-18, 640 training images, three epochs, {len(found)} seeds: test accuracy trained "
        f"in bfloat16 {means['auto']:.3f} ({listed(accuracies['auto'])}), in float32 {means['float32']:.3f} "
        f"({listed(accuracies['float32'])}), both scored in float32 as runs do. Scored in bfloat16 instead, {stayed} "
        f"of the {found[0]['test_images']} decisions stay."
    )


def _of_the_peak(record: dict[str, Any], peak: float) -> str:
    """What part of the matrix-multiply rate the networks reach."""
    import torch
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    parts = []
    for source, rounds in record["epoch"].items():
        network, image = torchvision.models.get_model(source).eval(), torch.rand(1, 3, 224, 224, requires_grad=True)
        network.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            network(image).sum().backward()
        used = counter.get_total_flops() / median(rounds, "ours")
        parts.append(f"{source} {used / 1e12:.2f} ({used / peak:.0%})")
    return (
        f"Matrix-multiply peak, bfloat16: {peak / 1e12:.2f} TFLOP/s (squares of 4096). Ours, counting the arithmetic "
        f"of forward and backward to the input alone: {', '.join(parts)} TFLOP/s."
    )


def _grown(row: dict[str, Any], key: str) -> str:
    ours, bare_one = row["ours"], row["bare"]
    part = bare_one["seconds_per_image"] / ours["seconds_per_image"]
    memory = f"{ours['peak_mib']:.0f} / {bare_one['peak_mib']:.0f}"
    return f"| {row[key]} | {1 / ours['seconds_per_image']:.0f} | {part:.1%} | {memory} |"


def _draw(record: dict[str, Any], path: Path) -> None:
    """Rates and memory as batch and canvas grow."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for column, (key, label) in enumerate((("batch", "images in a batch"), ("size", "side of the canvas (pixels)"))):
        x = [row[key] for row in record[key]]
        for name in ("ours", "bare"):
            rate = [1 / row[name]["seconds_per_image"] for row in record[key]]
            axes[0, column].plot(x, rate, marker="o", label=name)
            axes[1, column].plot(x, [row[name]["peak_mib"] for row in record[key]], marker="o", label=name)
        axes[0, column].set_ylabel("images/s, forward + backward")
        axes[1, column].set_ylabel("peak memory (MiB)")
        for row in (0, 1):
            axes[row, column].set(xlabel=label, ylim=(0, None))
            axes[row, column].legend()
    figure.suptitle("White box, ResNet-18: ours against the bare network")
    figure.savefig(path, dpi=110)


MEASURES = {"plain": plain, "ours": ours, "bare": bare, "unfused": unfused, "matmul": matmul}


if __name__ == "__main__":
    command_line(__doc__, MEASURES, {"run": run, "agreement": agreement, "profile": profile, "report": report})
