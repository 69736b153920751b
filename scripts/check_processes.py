"""Trains with one, two and four processes at the same global batch, and compares programs, estimates and accounts.

    OMP_NUM_THREADS=1 python -m scripts.check_processes

White box: 20 steps of SGD; the programs' pixels must agree to 1e-5. Black box: the zeroth-order estimate of the first
step must agree to 1e-5 of its size, and the accounts must be those of one process and the oracle's own count
(``tests/integration/oracle_process.py`` answers each image by itself, whoever asks). Shares are uneven: neither two nor
four processes divide the batch, or what is left of an epoch. What processes send to one another in a step is counted
by the kernel, on all of their TCP connections, by a run of each size of program.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from tests.integration.oracle_process import ROOT, SIDE, oracle, settled_count

PROCESSES = (1, 2, 4)
PATIENCE = 600  # seconds for a run
TOLERANCE = 1e-5
COMMON = (
    *("data=digits", "protocol.max_val=41", "protocol.max_test=43", "mapping=frequency", "mapping.refresh=1"),
    *("optimizer=plain_sgd", "scheduler=constant", "trainer.max_epochs=-1", "trainer.enable_progress_bar=false"),
    *("evaluation.baselines=[mapping_only]", "evaluation.num_resamples=20", "logger=none"),
)
WHITE = ("source.precision=float32", "optimizer.lr=1.0", "protocol.max_train=95", "data.batch_size=17")
BLACK = (
    *("access=black_box", "access.store=off", "access.queries_per_second=1000", "access.query_budget=20000"),
    *("source=module", "source.target=tests.integration.oracle_process.RemoteNetwork", "source.prepare=false"),
    *(f"source.image_size=[{SIDE},{SIDE}]", "program.size=8", "mapping.refit_at_end=false"),
    *("protocol.max_train=97", "data.batch_size=18", "optimizer.lr=0.1"),
)
ESTIMATORS = {
    "two_sided": ("estimator=two_sided",),
    "one_sided": ("estimator=one_sided", "estimator.num_directions=4"),
    "spsa": ("estimator=spsa", "estimator.num_directions=2"),
}
PROGRAMS = {  # what is learned on a canvas of 64x64
    "white box, frame": WHITE,
    "white box, whole canvas": (*WHITE, "program=full"),
    "black box, 4x4 grid": (
        *("access=black_box", "estimator=two_sided", "program.resolution=4", "access.queries_per_second=1000"),
        *("protocol.max_train=95", "data.batch_size=17", "access.query_budget=20000", "access.validations=2"),
    ),
}


def main() -> None:
    """Reads the command line; leaves with 1 if processes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("white", "black", "sent"), default=("white", "black", "sent"))
    parts = parser.parse_args().parts
    with tempfile.TemporaryDirectory() as folder:  # a short path: it holds a socket
        if "white" in parts:
            white(Path(folder) / "white")
        if "black" in parts:
            black(Path(folder) / "black")
        if "sent" in parts:
            sent(Path(folder) / "sent")


def white(folder: Path) -> None:
    """The same program after 20 steps, and the same metrics."""
    found = {number: train(folder / str(number), number, *WHITE, "trainer.max_steps=20") for number in PROCESSES}
    one, pixels = found[1], torch.sigmoid(theta(folder / "1"))
    assert (pixels - 0.5).abs().max() > 0.02, "nothing was learned"
    for number in PROCESSES[1:]:
        apart = (torch.sigmoid(theta(folder / str(number))) - pixels).abs().max().item()
        for split in ("val", "test"):
            for name, metric in one[split].items():
                other = found[number][split][name]["value"]
                assert metric["value"] == other or abs(metric["value"] - other) < TOLERANCE, (split, name)
        assert found[number]["queries"] == one["queries"], found[number]["queries"]
        moved = (pixels - 0.5).abs().max().item()
        print(f"white box: {number} processes, 20 steps: pixels differ by at most {apart:.1e}, moved up to {moved:.2f}")
        assert apart <= TOLERANCE


def black(folder: Path) -> None:
    """The same estimate and the same account, by every kind of estimator."""
    for name, choice in ESTIMATORS.items():
        estimates = {}
        for number in PROCESSES:
            with oracle(folder / name / str(number)) as place:
                choices = (*BLACK, *choice, f"+source.kwargs.folder={place}")
                train(place / "run", number, *choices, "trainer.max_steps=1")
                estimates[number] = moved(place / "run")
            with oracle(folder / name / f"{number}_steps") as place:
                record = train(
                    place / "run", number, *choices[:-1], f"+source.kwargs.folder={place}", "trainer.max_steps=12"
                )
                counted = settled_count(place)
            assert record["queries"]["total"] == counted, (record["queries"], counted)
            assert record["queries"]["uncertain"] == 0
            if number == 1:
                account = record["queries"]
            assert record["queries"] == account, (record["queries"], account)
            apart = ((estimates[number] - estimates[1]).norm() / estimates[1].norm()).item()
            spent = ", ".join(f"{record['queries'][key]} {key}" for key in ("train", "mapping", "validation", "test"))
            print(
                f"{name}: {number} processes: estimate differs by {apart:.1e}; {counted} queries, as counted: {spent}"
            )
            assert apart <= TOLERANCE


def sent(folder: Path) -> None:
    """Bytes of a step."""
    folder.mkdir()
    for name, choices in PROGRAMS.items():
        for number in PROCESSES[1:]:
            place = Path(tempfile.mkdtemp(dir=folder))
            train(place / "run", number, *choices, "trainer.max_steps=160", REPROGRAM_SENT=str(place))
            size = theta(place / "run").numel()
            steps = [json.loads((place / f"{rank}.json").read_text()) for rank in range(number)]
            differences = [[b - a for a, b in pairwise(one)] for one in steps]
            of_ranks = [median(one) for one in differences]
            print(
                f"{name}: {size} numbers ({4 * size} bytes), {number} processes: {sum(of_ranks):.0f} bytes a step in "
                f"all, {max(of_ranks):.0f} by one, up to {max(map(max, differences))} with a validation or a checkpoint"
            )


def train(run_dir: Path, processes: int, *choices: str, **environment: str) -> dict:
    """A run from its beginning to its record."""
    parallel = ("trainer=ddp_cpu", f"trainer.devices={processes}") if processes > 1 else ()
    module = "tests.integration.counted_process" if environment else "reprogram.commands.train"
    done = subprocess.run(
        [sys.executable, "-m", module, *COMMON, *parallel, *choices, f"run_dir={run_dir}"],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict = json.loads((run_dir / "metrics.json").read_text())
    return record


def theta(run_dir: Path) -> torch.Tensor:
    """The program after the last step."""
    return state(run_dir, "last.ckpt")


def moved(run_dir: Path) -> torch.Tensor:
    """What the steps have changed: after one of plain SGD, the estimate times the rate."""
    return state(run_dir, "last.ckpt") - state(run_dir, "start.ckpt")


def state(run_dir: Path, name: str) -> torch.Tensor:
    """The program of a checkpoint."""
    found = torch.load(run_dir / "checkpoints" / name, weights_only=True)["state_dict"]
    program: torch.Tensor = found["classifier.program.theta"].double()
    return program


if __name__ == "__main__":
    main()
