"""Queries a second behind a black box: ours, the loop that peers run, and the bare network.

    REPROGRAM_ASSETS=DIR python scripts/benchmark_queries_per_second.py run --output benchmarks
    REPROGRAM_ASSETS=DIR python scripts/benchmark_queries_per_second.py profile --output benchmarks
    REPROGRAM_ASSETS=DIR python scripts/benchmark_queries_per_second.py report --output benchmarks

Every measurement is a process of its own and the variants take turns. The data are HAM10000 at 64 pixels, the source
ResNet-18 at 224 pixels in float32, the program a frame of resolution 8, as ``recipe=black_box`` has it.

- ``ours``: an epoch of ``Trainer.fit`` with the one-sided estimator of q directions, everything included: directions,
  composition, encoding, the ledger on disk, losses, the surrogate, the optimiser's step.
- ``plain``: BAR as BlackVIP re-implements it (``trainers/reprogramming.py``): q + 1 forwards one after the other in
  float32, NCHW, BatchNorm as it comes, the program repeated over the batch; written by us from its structure.
- ``bare``: ``inference_mode`` forwards of the very network that ours runs, on input that is ready: the limit.
"""

import tempfile
import time
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

FILE = "queries_per_second.json"
ROUNDS = 3
BATCH = 32
DIRECTIONS = (1, 64)
GROWING = (1, 8, 64)
BATCHES = (8, 32)
EXAMPLES = {1: 320, 4: 128, 8: 96, 64: 32}  # of an epoch of ours


def run(output: Path) -> None:
    """Measures everything, and writes after each part."""
    path = output / FILE
    record: dict[str, Any] = {"environment": environment(), "queries": {}}
    for q in DIRECTIONS:
        cases = {"ours": {"q": q}, "bare": {}, "plain": {"q": q}}
        record["queries"][q] = [
            {name: measured(__file__, name, **case) for name, case in cases.items()} for _ in range(ROUNDS)
        ]
        write(record, path)
    record["directions"] = [{"directions": q, "ours": measured(__file__, "ours", q=q)} for q in GROWING]
    record["batch"] = [
        {
            "batch": batch,
            "ours": measured(__file__, "ours", q=4, batch=batch),
            "bare": measured(__file__, "bare", batch=batch),
        }
        for batch in BATCHES
    ]
    write(record, path)


def black_box(q: int, batch: int) -> dict[str, Any]:
    """The configuration: recipe=black_box with BAR's estimator."""
    return composed(
        "resnet18",
        *("recipe=black_box", "estimator=one_sided", f"estimator.num_directions={q}", "program.resolution=8"),
        *("estimator.smoothing=0.1", "access.query_budget=1000000", f"data.batch_size={batch}", "trainer.max_epochs=2"),
    )


def made(cfg: dict[str, Any], folder: Path, data):
    """Module of a configuration, with a ledger on disk."""
    import torch

    from reprogram import build, sourcing
    from reprogram.sources.ledger import Ledger

    ledger = Ledger(folder / "ledger.sqlite", ".", 1_000_000)
    ledger.begin()
    source = build.accessed(cfg, sourcing.source(cfg, "cpu", data.spec), ledger)
    model = build.classifier(cfg, source, data.spec, "cpu")
    counts = torch.ones(data.spec.num_classes)
    return build.module(cfg, model, build.estimator(cfg, model.program), counts, 1000), ledger


def ours(q: int, batch: int = BATCH) -> dict[str, float]:
    """One epoch of training, after one that is not counted."""
    import pytorch_lightning as pl

    from reprogram import build, sourcing, trainers  # noqa: F401 - imported before memory is measured
    from reprogram.data.loader import BatchLoader

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.started, self.asked = time.perf_counter(), sum(ledger.spent().values())

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.started
            self.asked = sum(ledger.spent().values()) - self.asked

    cfg = black_box(q, batch)
    data = build.task_data(cfg)
    examples = data.splits["train"].subset(range(max(batch, EXAMPLES[q])))
    with tempfile.TemporaryDirectory() as folder:
        peak = Peak()
        module, ledger = made(cfg, Path(folder), data)
        clock = Clock()
        trainer = trainers.trainer(cfg, None, [clock], [], Path(folder))
        trainer.fit(module, BatchLoader(examples, batch, True, 0))
        assert clock.asked == len(examples) * (q + 1)
    return {"seconds_per_image": clock.seconds / clock.asked, "peak_mib": peak.mib()}


def bare(batch: int = BATCH) -> dict[str, float]:
    """Forwards of the network alone."""
    import torch

    from reprogram.memory import keep_freed_memory
    from reprogram.sources.prepared import PreparedSource
    from reprogram.sources.torchvision import torchvision_source

    peak = Peak()
    keep_freed_memory()
    network = PreparedSource(torchvision_source("resnet18", str(weights_of("resnet18"))), "float32").network
    images = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> None:
        network(images)

    return {"seconds_per_image": timed(step, batch), "peak_mib": peak.mib()}


def plain(q: int, batch: int = BATCH) -> dict[str, float]:
    """The loop of the peers, on images that are placed already."""
    import torch
    import torchvision
    from safetensors.torch import load_file

    peak = Peak()
    network = torchvision.models.resnet18()
    network.load_state_dict(load_file(weights_of("resnet18")))
    network.eval()
    placed = torch.nn.functional.pad(torch.rand(batch, 3, 168, 168), (28, 28, 28, 28))
    mask = torch.ones(3, 224, 224)
    mask[:, 28:196, 28:196] = 0
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    theta, targets = torch.zeros(3 * 224 * 224), torch.zeros(batch, dtype=torch.long)

    def loss(point: torch.Tensor) -> torch.Tensor:
        program = (torch.sigmoid(point.view(3, 224, 224)) * mask).repeat(batch, 1, 1, 1)
        return torch.nn.functional.cross_entropy(network((placed + program - mean) / std), targets)

    @torch.no_grad()
    def step() -> None:
        base, gradient = loss(theta), torch.zeros_like(theta)
        for _ in range(q):
            direction = torch.randn_like(theta)
            direction /= direction.norm()
            gradient += (loss(theta + 0.1 * direction) - base) / 0.1 * direction
        theta.sub_(0.01 * gradient)

    loss(theta)
    steps, started = max(1, 8 // q), time.perf_counter()
    for _ in range(steps):
        step()
    seconds = (time.perf_counter() - started) / (steps * batch * (q + 1))
    return {"seconds_per_image": seconds, "peak_mib": peak.mib()}


def profile(output: Path) -> None:
    """Operators of one step by their own time, as a text table."""
    import torch

    from reprogram import build
    from reprogram.types import Batch

    lines = []
    for q in (1, 8):
        with tempfile.TemporaryDirectory() as folder:
            cfg = black_box(q, BATCH)
            data = build.task_data(cfg)
            examples, (module, _) = data.splits["train"], made(cfg, Path(folder), data)
            optimizer = module.configure_optimizers()["optimizer"]
            rows = torch.arange(BATCH)
            batch = Batch(examples.images[rows], examples.targets[rows], torch.full((BATCH,), 1 / BATCH), rows)

            def step(module=module, optimizer=optimizer, batch=batch) -> None:
                surrogate = module.training_step(module.on_after_batch_transfer(batch, 0), 0)
                optimizer.zero_grad()
                surrogate.backward()
                optimizer.step()

            lines += [f"Black box, ResNet-18, {BATCH} images of 224 pixels, float32, q = {q}", *operators(step), ""]
    (output / "queries_profile.txt").write_text("\n".join(lines))
    print("\n".join(lines))


HEADING = """# Black box: queries a second

ResNet-18 on 224 pixels in float32, HAM10000, a frame of resolution 8, batches of 32, one-sided differences along q
directions. `ours` is an epoch of `Trainer.fit` with everything in it, the ledger on disk included; `plain` the loop
that peers run, on images that are placed already; `bare` forwards of the very network that ours runs, fused, in
`inference_mode`, on input that is ready, so the limit. Medians of {rounds} rounds in which the variants take turns,
each measurement a process of its own; ratios round by round (range in brackets). Made by

    {command}

on {device}, PyTorch {torch}, {threads} threads, {date}. All numbers: `queries_per_second.json`.

| q | ours, queries/s | plain | bare | plain / ours | ours, of the limit |
|---:|---:|---:|---:|---:|---:|"""


def report(output: Path) -> None:
    """Writes ``queries_per_second.md`` and ``queries_per_second.png``."""
    record = read(output / FILE)
    surroundings = record["environment"]
    facts = {name: surroundings[name] for name in ("command", "device", "threads", "date")}
    lines = [HEADING.format(rounds=ROUNDS, torch=surroundings["packages"]["torch"], **facts)]
    for q, rounds in record["queries"].items():
        rates = " | ".join(f"{1 / median(rounds, name):.1f}" for name in ("ours", "plain", "bare"))
        ratios = f"{ratio(rounds, 'plain', 'ours')} | {ratio(rounds, 'bare', 'ours')}"
        lines.append(f"| {q} | {rates} | {ratios} |")
        memory = median(rounds, "bare", "peak_mib")
    lines += ["", "![](queries_per_second.png)", ""]
    lines += [f"Memory, beside {memory:.0f} MiB of the bare network, which has no trainer around it:", ""]
    lines += ["| directions | queries/s | peak MiB |", "|---:|---:|---:|"]
    for row in record["directions"]:
        lines.append(
            f"| {row['directions']} | {1 / row['ours']['seconds_per_image']:.1f} | {row['ours']['peak_mib']:.0f} |"
        )
    lines += ["", "| batch (q = 4) | queries/s | of the limit at that batch |", "|---:|---:|---:|"]
    for row in record["batch"]:
        own, limit = row["ours"]["seconds_per_image"], row["bare"]["seconds_per_image"]
        lines.append(f"| {row['batch']} | {1 / own:.1f} | {limit / own:.1%} |")
    (output / "queries_per_second.md").write_text("\n".join(lines) + "\n")
    _draw(record, output / "queries_per_second.png")
    print("\n".join(lines))


def _draw(record: dict[str, Any], path: Path) -> None:
    """Rate and memory against the number of directions."""
    import matplotlib.pyplot as plt

    figure, (rates, memory) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    x = [row["directions"] for row in record["directions"]]
    limit = 1 / median(next(iter(record["queries"].values())), "bare")
    rates.plot(x, [1 / row["ours"]["seconds_per_image"] for row in record["directions"]], marker="o", label="ours")
    rates.axhline(limit, linestyle="--", color="grey", label="bare network")
    memory.plot(x, [row["ours"]["peak_mib"] for row in record["directions"]], marker="o", label="ours")
    rates.set(xlabel="directions", ylabel="queries/s", xscale="log", ylim=(0, 1.15 * limit))
    memory.set(xlabel="directions", ylabel="peak memory (MiB)", xscale="log", ylim=(0, 1000))
    rates.legend()
    figure.suptitle("Black box, ResNet-18, float32")
    figure.savefig(path, dpi=110)


MEASURES = {"ours": ours, "bare": bare, "plain": plain}


if __name__ == "__main__":
    command_line(__doc__, MEASURES, {"run": run, "profile": profile, "report": report})
