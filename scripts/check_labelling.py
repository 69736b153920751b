"""Plays the person of ``reprogram-active``: fills sheets well and badly, moves the folder, kills a round, and compares.

    OMP_NUM_THREADS=1 python -m scripts.check_labelling

Handwritten digits as an .npz file whose training labels are taken out, the embedded source, three rounds; each command
is a process of its own. Every sheet is first filled in part, with a class that does not exist, with a row twice, and
with an id that was edited: each time the command must end with 2 and one message that names the mistake, leave the
sheet as it is, and take nothing over. Between rounds the folder moves to another place, as it would to another machine;
in the second round the training is killed. In the end the rounds must be those of a simulation that knows the labels.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
TRAIN, VAL, TEST = 240, 60, 100
CHOICES = (
    *("data=npz", "active=margin", "active.fractions=[0.1,0.2,0.3]", "trainer.max_epochs=2", "logger=none"),
    *("trainer.enable_progress_bar=false", "evaluation.baselines=[]", "evaluation.num_resamples=50"),
)
Rows = list[list[str]]


def main() -> None:
    """Leaves with 1 at the first thing that is not as it should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = draw(folder)
        done, _ = command(folder / "labelled.npz", folder / "simulated")
        expect(done == 0, "the simulation ends")
        place = folder / "first machine"
        for number in (1, 2, 3):
            code, said = command(folder / "unlabelled.npz", place, "active.labels=person")
            sheet = place / f"round_{number}" / "sheet.csv"
            expect(code == 0 and f"fill {sheet}" in said, f"round {number} waits for its sheet")
            right = [[name, truth[name]] for name, _ in read(sheet)]
            make_mistakes(sheet, folder, place, right)
            write(sheet, right)
            if number == 1:
                place = place.rename(folder / "second machine")
            if number == 2:
                killed(folder / "unlabelled.npz", place)
        code, said = command(folder / "unlabelled.npz", place, "active.labels=person")
        expect(code == 0 and "waiting" not in said, "the last round ends")
        for number in (1, 2, 3):
            person, simulated = (
                json.loads((one / f"round_{number}" / "round.json").read_text())
                for one in (place, folder / "simulated")
            )
            person["propagated"] = simulated["propagated"] = None  # known to the simulation alone
            expect(person == simulated, f"round {number} is that of the simulation, to the last digit")
            print(f"round {number}: {person['labels']} labels, test accuracy {person['test']['accuracy']['value']:.3f}")
        print(said)


def draw(folder: Path) -> dict[str, str]:
    """The same digits with and without the labels of training; returns the true label of each id."""
    digits = load_digits()
    rows = np.random.default_rng(0).permutation(len(digits.target))[: TRAIN + VAL + TEST]
    images = (digits.images[rows] * 255 / 16).astype(np.uint8)
    labels = digits.target[rows].astype(np.int64)
    split = np.array(["train"] * TRAIN + ["val"] * VAL + ["test"] * TEST)
    hidden = np.where(split == "train", -1, labels)
    names = np.array([f"digit {name}" for name in range(10)])
    ids = np.array([f"scan {row:04d}" for row in rows])
    for name, known in (("labelled", labels), ("unlabelled", hidden)):
        np.savez(folder / f"{name}.npz", images=images, labels=known, split=split, class_names=names, ids=ids)
    return {str(one): str(names[label]) for one, label in zip(ids, labels, strict=True)}


def make_mistakes(sheet: Path, folder: Path, place: Path, right: Rows) -> None:
    """One after the other; each must be named, and nothing lost."""
    half = [row if place_ % 2 else [row[0], ""] for place_, row in enumerate(right)]
    unknown = [[right[0][0], "digit ten"], *right[1:]]
    twice = [*right, [right[1][0], right[1][1]]]
    edited = [[right[0][0].upper(), right[0][1]], *right[1:]]
    mistakes: tuple[tuple[str, Rows, str], ...] = (
        ("half full", half, f"{len(right) // 2} of {len(right)} rows are filled"),
        ("an unknown class", unknown, "digit ten"),
        ("a row twice", twice, right[1][0]),
        ("an edited id", edited, edited[0][0]),
    )
    for what, rows, named in mistakes:
        write(sheet, rows)
        before = sheet.read_bytes()
        code, said = command(folder / "unlabelled.npz", place, "active.labels=person")
        message = next((line for line in said.splitlines() if line.startswith("error: ")), "")
        expect(code == 2 and named in said and "Traceback" not in said, f"{what}: {message[:110]}")
        expect(sheet.read_bytes() == before, "  the sheet is as it was")
        expect(not (sheet.parent / "labels.csv").exists(), "  nothing is taken over")


def killed(data: Path, place: Path) -> None:
    """Kills the training of the round that goes on now."""
    process = subprocess.Popen(line(data, place, "active.labels=person"), cwd=ROOT, env=environment())
    config = place / "round_2" / "run" / "config.yaml"
    wait_for(config.is_file)
    process.send_signal(signal.SIGKILL)
    expect(process.wait() == -signal.SIGKILL, "killed in the second round's training")
    expect((place / "round_2" / "labels.csv").is_file(), "  the labels of the round are kept")
    expect(not (place / "round_2" / "round.json").is_file(), "  the round has not ended")


def wait_for(true: Callable[[], bool], seconds: float = 120) -> None:
    """Until it is."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            sys.exit("waited in vain")
        time.sleep(0.02)


def line(data: Path, place: Path, *others: str) -> list[str]:
    """The command."""
    chosen = [*CHOICES, f"data.path='{data}'", f"run_dir='{place}'", *others]
    return [sys.executable, "-m", "reprogram.commands.active", *chosen]


def command(data: Path, place: Path, *others: str) -> tuple[int, str]:
    """Its exit code and all it says."""
    done = subprocess.run(line(data, place, *others), cwd=ROOT, env=environment(), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def environment() -> dict[str, str]:
    """Of a user."""
    return {**os.environ, "WANDB_MODE": "offline"}


def read(sheet: Path) -> Rows:
    """Rows without the heads."""
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))[1:]


def write(sheet: Path, rows: Rows) -> None:
    """As a person would save them."""
    with sheet.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "label"], *rows])


def expect(true: bool, what: str) -> None:
    """Says what holds; ends where it does not."""
    print(("ok    " if true else "FAILED ") + what, flush=True)
    if not true:
        sys.exit(1)


if __name__ == "__main__":
    main()
