"""Seconds of an epoch in the white box: ours, the loop that peers run, the bare network, and the matrix-multiply peak.

    REPROGRAM_ASSETS=DIR python scripts/benchmark_training.py run --output benchmarks
    REPROGRAM_ASSETS=DIR python scripts/benchmark_training.py agreement --output benchmarks
    REPROGRAM_ASSETS=DIR python scripts/benchmark_training.py report --output benchmarks

Every measurement is a process of its own, the variants take turns, and the median of the rounds is reported, so what
else the machine does meets all alike. The data are HAM10000 at 64 pixels, placed at 3/4 of a canvas of 224.

- ``plain``: what ILM-VP (``experiments/cnn/ilm_vp.py``, ``algorithms/flm_calculation.py``) does in an epoch, and BLM, SMM
  and AutoVP after it; written by us from its structure: images decoded and resized by PIL in two loader processes,
  float32, NCHW, BatchNorm as it comes, a pass over the training set for the label map, then the training pass.
- ``ours``: an epoch of ``Trainer.fit`` with the module, callbacks and settings that ``reprogram-train`` makes.
- ``bare``: forward and backward (to the input) of the network that ours runs, on ready input: the limit.
- ``unfused``: the same of the network folded, channels_last, in bfloat16, but left to PyTorch's own autograd.
- ``matmul``: the largest rate of a product of two square matrices.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 3
SOURCES = ("resnet18", "resnet50")
BATCH = 32
EXAMPLES = {"resnet18": 1024, "resnet50": 512}  # of an epoch of ours
PLAIN_BATCHES = {"resnet18": 6, "resnet50": 3}  # of each pass
SECONDS = 5.0  # of one measurement of a bare network
BATCHES = (4, 8, 16, 32, 64, 128)
SIZES = (64, 96, 128, 160, 224)
DATA = (128, 256, 512, 1024, 2048)
LR = 0.01


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "agreement", "report", "one"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks"))
    parser.add_argument("--case", type=json.loads, help="of `one`: what a single process measures")
    arguments = parser.parse_args()
    path = arguments.output / "training.json"
    if arguments.action == "one":
        print(json.dumps(MEASURES[arguments.case.pop("variant")](**arguments.case)))
    elif arguments.action == "report":
        report(json.loads(path.read_text()), arguments.output)
    else:
        record = json.loads(path.read_text()) if path.is_file() else {}
        (run if arguments.action == "run" else agreement)(record, path)


def run(record: dict[str, Any], path: Path) -> None:
    """Measures everything, and writes after each part."""
    record["environment"] = environment()
    for source in SOURCES:
        variants = ("plain", "ours", "bare", "unfused")
        rounds = [{name: measured(name, source=source) for name in variants} for _ in range(ROUNDS)]
        record.setdefault("epoch", {})[source] = rounds
        write(record, path)
    record["matmul"] = [measured("matmul") for _ in range(ROUNDS)]
    record["batch"] = [
        {"batch": batch, **{name: measured(name, source="resnet18", batch=batch) for name in ("ours", "bare")}}
        for batch in BATCHES
    ]
    write(record, path)
    record["size"] = [
        {"size": size, **{name: measured(name, source="resnet18", size=size) for name in ("ours", "bare")}}
        for size in SIZES
    ]
    write(record, path)
    record["examples"] = [
        {"examples": count, "ours": measured("ours", source="resnet18", size=128, examples=count)} for count in DATA
    ]
    record["processes"] = [
        {"processes": count, "ours": measured("ours", source="resnet18", size=128, examples=1024, processes=count)}
        for count in (1, 2)
    ]
    write(record, path)


def measured(variant: str, **case: Any) -> dict[str, float]:
    """One measurement in a process of its own, with the environment that a user has."""
    command = [sys.executable, __file__, "one", "--case", json.dumps({"variant": variant, **case})]
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    )
    if found.returncode:
        sys.exit(f"{variant} {case}\n{found.stderr[-3000:]}")
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    print(variant, case, result, flush=True)
    return result


# --- what a single process measures ---------------------------------------------------------------------------------


def weights_of(source: str) -> Path:
    """The local file of ImageNet weights."""
    return Path(os.environ["REPROGRAM_ASSETS"], "weights", "noncommercial", f"{source}_ktb.torchvision.safetensors")


def data_file() -> Path:
    """HAM10000 at 64 pixels."""
    return Path(os.environ["REPROGRAM_ASSETS"], "data", "ham10000_64.npz")


class Peak:
    """The largest resident memory since it was made, above what was resident then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._of("VmRSS")

    def mib(self) -> float:
        """In MiB."""
        return (self._of("VmHWM") - self.before) / 1024

    @staticmethod
    def _of(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


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


def composed(source: str, *overrides: str):
    """The configuration of ``reprogram-train`` for HAM10000."""
    from hydra import compose, initialize_config_dir

    from reprogram.build import plain as resolved
    from reprogram.commands.launch import config_folder

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [f"experiment=white_box/ham10000_{source}", "mapping=frequency", *overrides])
    return resolved(cfg)


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
        *("trainer.enable_progress_bar=false", "logger=none"),
    )
    data: TaskData = build.task_data(cfg)
    train = data.splits["train"].subset(range(examples))
    peak = Peak()
    model = build.classifier(cfg, sourcing.source(cfg, "cpu", data.spec), data.spec, "cpu")
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


def timed(step, images: int) -> float:
    """Seconds an image, the mean over some seconds."""
    for _ in range(3):
        step()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS or count < 5:
        step()
        count += 1
    return (time.perf_counter() - started) / count / images


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


MEASURES = {"plain": plain, "ours": ours, "bare": bare, "unfused": unfused, "matmul": matmul}


if __name__ == "__main__":
    main()
