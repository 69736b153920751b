"""Sends SIGTERM in the middle of each phase of a run, starts the same command again, and compares with a quiet run.

    OMP_NUM_THREADS=1 python -m scripts.check_preemption

In the phases data caching, training, validation and evaluation the process signals itself at a chosen call, so it is
always in the middle (``tests/integration/interrupted_process.py``). Each time the exit code must be 75, and the same
command must end with the predictions, the program and the metrics of a run that nobody disturbed, to the last bit; then
once more, and it finds nothing left to do. Behind a black box the account must be the same, too. With ``--chain`` one
run is stopped in one phase after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
PREEMPTED = 75
PATIENCE = 180  # seconds for a run
CHOICES = (
    *("data=folder", "data.image_size=16", "protocol.seed=1", "data.batch_size=16", "source.precision=float32"),
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=false", "callbacks.checkpoint_every=3"),
    *("evaluation.baselines=[mapping_only]", "evaluation.num_resamples=50"),
)
KINDS = {
    "white_box": (),
    "two_processes": ("trainer=ddp_cpu",),
    "black_box": (
        *("access=black_box", "access.store=on", "access.query_budget=12000", "access.queries_per_second=1000"),
        *("estimator=two_sided", "program.resolution=4", "mapping.learn=false"),
    ),
}
# the call of a phase that is interrupted, by rank
CALLS = {"caching": 70, "training": 7, "validation": 5, "evaluation": 2}
RANKS = {"training": 1, "validation": 1}  # with two processes


def main() -> None:
    """Reads the command line; leaves with 1 if a run is not what it would have been."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--chain", action="store_true", help="stop one run in all phases")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "data")
        for kind in arguments.kinds:
            check(Path(folder) / kind, kind, arguments.chain)
    print("all runs equal those that nobody disturbed")


def draw(folder: Path) -> None:
    """Handwritten digits 0 to 2 as image files."""
    digits = load_digits(n_class=3)
    for index, (image, label) in enumerate(zip(digits.images[:240], digits.target, strict=False)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / str(label) / f"{index:03}.png")


def check(folder: Path, kind: str, chain: bool) -> None:
    """One quiet run, and one for each phase, or one for all."""
    code, said = run(folder, "quiet", kind)
    assert code == 0, said
    print(f"{kind}: test accuracy {metrics(folder / 'quiet')['test']['accuracy']['value']:.3f}, undisturbed")
    for phase, call in CALLS.items():
        name = "chain" if chain else phase
        rank = RANKS.get(phase, 0) if kind == "two_processes" else 0
        moment = folder / "moment"
        moment.unlink(missing_ok=True)
        code, said = run(folder, name, kind, REPROGRAM_INTERRUPT=f"{phase} {call} {rank} SIGTERM")
        took = time.time() - float(moment.read_text())
        assert code == PREEMPTED, (code, said)
        assert "stopped by SIGTERM; the same command continues" in said, said
        assert "Traceback" not in said, said
        step = last_step(folder / name)
        print(
            f"  {phase:>10}: rank {rank} got SIGTERM, exit code 75 after {took:.1f} s; checkpoint: {step}", flush=True
        )
        if not chain:
            finish(folder, name, kind)
    if chain:
        finish(folder, "chain", kind)


def finish(folder: Path, name: str, kind: str) -> None:
    """The same command to its end, and once more."""
    code, said = run(folder, name, kind)
    assert code == 0, said
    compare(folder / name, folder / "quiet")
    code, said = run(folder, name, kind)
    assert code == 0, said
    assert "holds a finished run of this configuration" in said, said


def run(folder: Path, name: str, kind: str, **environment: str) -> tuple[int, str]:
    """The command: exit code, and what it said. Each run has a cache of its own."""
    command = [sys.executable, "-m", "tests.integration.interrupted_process", *CHOICES, *KINDS[kind]]
    command += [f"data.path={folder.parent / 'data'}", f"run_dir={folder / name}"]
    folder.mkdir(exist_ok=True)
    places = {"REPROGRAM_CACHE": str(folder / f"cache_{name}"), "REPROGRAM_INTERRUPTED": str(folder / "moment")}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | places | environment,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def metrics(run_dir: Path) -> dict:
    """The record, but for what no two runs share."""
    record = json.loads((run_dir / "metrics.json").read_text())
    return {key: value for key, value in record.items() if key not in ("timing", "environment")}


def last_step(run_dir: Path) -> str:
    """Where the run would continue."""
    import torch

    last = run_dir / "checkpoints" / "last.ckpt"
    return f"step {torch.load(last, weights_only=True)['global_step']}" if last.is_file() else "none"


def compare(first: Path, second: Path) -> None:
    """Records, predictions and programs of two runs."""
    one, other = metrics(first), metrics(second)
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    assert not differing, {key: (one.get(key), other.get(key)) for key in differing}
    for name in ("predictions.csv", "program/program.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


if __name__ == "__main__":
    main()
