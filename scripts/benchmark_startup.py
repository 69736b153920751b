"""How long until a command says something: ``reprogram-train --help``, and the first training step of the quickstart.

    python scripts/benchmark_startup.py

Each command runs in a fresh process, in turns, after one round that does not count (it fills the disk cache). Beside
them stand the imports that nothing of ours can avoid: PyTorch's and Lightning's own. The training is
``reprogram-train`` with no argument but ``run_dir``. Its process (``--first-step``) patches the Lightning module where
the command imports it, and ends after the first step; its clock, ``CLOCK_MONOTONIC``, is that of the whole machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "pytorch_lightning")
HELP = "reprogram-train --help"
TRAINING = "reprogram-train"
MOMENTS = {"imported": "all imports", "started": "training starts", "stepped": "first training step"}
FLOOR = "import pytorch_lightning"
BROUGHT_IN = ("torchmetrics", "scipy", "matplotlib", "transformers", "pandas")  # by Lightning and scikit-learn
UNASKED = ("wandb", "timm", "open_clip", "onnxruntime", "nilearn", "medmnist")

HEADING = """# How long a command takes to start

Seconds from the start of a fresh process, disk cache warm; median and range of {repeats}. "all imports", "training
starts" and "first training step" are moments of one process: `reprogram-train` with no argument but `run_dir`; between
the last two the mapping is fitted. The last column is relative to `import pytorch_lightning`, which no run can do
without (it imports torchmetrics, and that torchvision, scipy.signal, matplotlib and, where it is installed,
transformers); the command imports the same with the garbage collector paused, so that it can be below 1. Made by

    {command}

on {device}, {threads}, Python {python}:
{packages}.
Not imported before the first step: {absent}.

"""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("benchmarks"))
    parser.add_argument("--first-step", type=Path, metavar="RUN_DIR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step is not None:
        first_step(arguments.first_step)
    else:
        report(measure(arguments.repeats), arguments.results)


def first_step(run_dir: Path) -> None:
    """Runs ``reprogram-train`` to the end of its first step; the last line printed tells when each moment was."""
    from reprogram.commands import train
    from reprogram.commands.launch import importing

    task, moments = train._train, {}

    def stamp(name: str) -> None:
        moments[name] = time.clock_gettime(time.CLOCK_MONOTONIC)

    def stepped(*_: object) -> None:
        stamp("stepped")
        print(json.dumps({**moments, "found": [name for name in UNASKED if name in sys.modules]}), flush=True)
        os._exit(0)

    def patched(cfg: Any) -> object:
        with importing():  # what the command does first
            from reprogram.evaluation.report import print_results  # noqa: F401
            from reprogram.runs import train  # noqa: F401
        stamp("imported")
        from reprogram.training.module import ReprogrammingModule

        ReprogrammingModule.setup = lambda *_, **__: stamp("started")
        ReprogrammingModule.on_train_batch_end = stepped
        return task(cfg)

    train._train = patched
    sys.argv = [TRAINING, f"run_dir={run_dir}"]
    train.main()


def measure(repeats: int) -> dict[str, Any]:
    """Seconds of each command and moment, one number a round."""
    seconds: dict[str, list[float]] = {}
    found: set[str] = set()
    for turn in range(repeats + 1):
        measured: dict[str, float] = {}
        for name in LIBRARIES:
            program = f"import {name}, time; print(time.clock_gettime(time.CLOCK_MONOTONIC))"
            begun, output = _run(["-c", program])
            measured[f"import {name}"] = float(output) - begun
        begun, _ = _run(["-m", "reprogram.commands.train", "--help"])
        measured[HELP] = time.clock_gettime(time.CLOCK_MONOTONIC) - begun  # with the end of the process
        with tempfile.TemporaryDirectory() as folder:
            begun, output = _run([__file__, "--first-step", f"{folder}/run"])
        moments = json.loads(output.splitlines()[-1])
        found |= set(moments.pop("found"))
        measured |= {f"{TRAINING}: {MOMENTS[name]}": moment - begun for name, moment in moments.items()}
        if turn:
            for name, value in measured.items():
                seconds.setdefault(name, []).append(value)
    return {"seconds": seconds, "absent": [name for name in UNASKED if name not in found]}


def _run(arguments: list[str]) -> tuple[float, str]:
    """When a fresh Python was started, and what it has printed."""
    begun = time.clock_gettime(time.CLOCK_MONOTONIC)
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return begun, done.stdout


def report(measured: dict[str, Any], results: Path) -> None:
    """Writes ``startup.json`` and ``startup.md``."""
    import torch

    from reprogram.records import environment

    floor = statistics.median(measured["seconds"][FLOOR])
    rows = {name: _row(seconds, floor) for name, seconds in measured["seconds"].items()}
    found = environment(torch.device("cpu"))
    found["command"] = f"python {' '.join(sys.argv)}"
    found["packages"] |= {name: there for name in BROUGHT_IN if (there := _version(name)) is not None}
    threads = os.environ.get("OMP_NUM_THREADS")
    record = {
        "omp_num_threads": threads,
        "environment": found,
        "not_imported_before_the_first_step": measured["absent"],
        "seconds": rows,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "startup.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    heading = HEADING.format(
        repeats=len(measured["seconds"][FLOOR]),
        command=found["command"],
        device=found["device"],
        threads=f"OMP_NUM_THREADS={threads}" if threads else "as many threads as PyTorch takes by itself",
        python=found["python"],
        packages=textwrap.fill(", ".join(f"{name} {number}" for name, number in found["packages"].items()), 118),
        absent=", ".join(measured["absent"]),
    )
    (results / "startup.md").write_text(heading + _markdown(rows), encoding="utf-8")
    print(_markdown(rows))


def _row(seconds: Sequence[float], floor: float) -> dict[str, Any]:
    middle = statistics.median(seconds)
    found = {"median": middle, "min": min(seconds), "max": max(seconds), "over_lightning": middle / floor}
    return {**{key: round(value, 3) for key, value in found.items()}, "all": [round(one, 3) for one in seconds]}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _markdown(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| | median s | range | / Lightning |", "| --- | ---: | ---: | ---: |"]
    for name, row in rows.items():
        label = name if name.startswith(f"{TRAINING}: ") else f"`{name}`"
        cells = [label, f"{row['median']:.2f}", f"{row['min']:.2f}-{row['max']:.2f}", f"{row['over_lightning']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
