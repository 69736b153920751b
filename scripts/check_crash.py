"""Kills a budgeted black-box run with SIGKILL at random moments, continues it each time, and compares the accounts.

    OMP_NUM_THREADS=1 python -m scripts.check_crash --kills 20 --seed 0

The oracle is a process of its own (``tests/integration/oracle_process.py``) and writes its count to the disk before it
answers. The queries of the run, from the first of the mapping to the last of the test split, are divided into as many
parts as there are kills: each kill waits for a random query of its part, and then a random 0 to 50 ms. After every one

    oracle <= ledger <= oracle + in flight <= oracle + kills * micro-batch,    ledger <= budget

and in the end program and predictions are, to the last bit, those of a run that nobody killed, since the budget leaves
room for what was lost in flight. With ``--tight`` it leaves none, and all kills fall into the training: then that ends
early by the steps that the lost queries would have paid for, and the run finishes all the same.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.integration.oracle_process import ROOT, SIDE, count, oracle, settled_count

MICRO_BATCH = 8
STEPS, STEP = 80, 24  # queries of a step: two for each of 12 examples
PLANNED = {"train": STEPS * STEP, "mapping": 2 * 96, "validation": 5 * 40, "test": 40, "baseline": 40}
TOTAL = sum(PLANNED.values())
TRAINED = 96 + 4 * 40 + (STEPS - 5) * STEP  # before the last steps and what follows them
CHOICES = (
    *("data=digits", "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40", "data.batch_size=12"),
    *("access=black_box", "access.store=on", f"access.micro_batch={MICRO_BATCH}", "access.queries_per_second=1000"),
    *("source=module", "source.target=tests.integration.oracle_process.RemoteNetwork", "source.prepare=false"),
    *(f"source.image_size=[{SIDE},{SIDE}]", "program.size=8", "program.resolution=4", "estimator=two_sided"),
    *("mapping=linear", "mapping.learn=false", f"trainer.max_steps={STEPS}", "trainer.max_epochs=-1"),
    *("optimizer.lr=0.1", "callbacks.checkpoint_every=5", "evaluation.baselines=[mapping_only]"),
    *("evaluation.num_resamples=20", "trainer.enable_progress_bar=false", "logger=none"),
)
PATIENCE = 120  # seconds until a run that makes no progress is given up


def main() -> None:
    """Reads the command line; leaves with 1 if an account does not balance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tight", action="store_true", help="leave no room for what is lost in flight")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # a short path: it holds a socket
        check(Path(folder), arguments.kills, arguments.seed, arguments.tight)


def check(folder: Path, kills: int, seed: int, tight: bool) -> None:
    """Runs once without a kill and once with so many, and compares."""
    budget = TOTAL + (0 if tight else kills * MICRO_BATCH)
    numbers = random.Random(seed)
    with oracle(folder / "quiet") as quiet, oracle(folder / "killed") as killed:
        undisturbed = run(quiet, budget)
        print(f"{'kill':>4} {'oracle':>7} {'ledger':>7} {'in flight':>9} of {budget}; since the last one:")
        before, in_flight = {}, 0
        for kill in range(kills):
            # what was lost in flight is asked again
            moment = (kill + numbers.random()) / kills * (TRAINED if tight else TOTAL) + in_flight
            process = run(killed, budget)
            wait_for(process, killed, moment)
            time.sleep(numbers.uniform(0, 0.05))
            assert process.poll() is None, "the run was finished before it could be killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
            spent, in_flight = account(killed)
            asked = ", ".join(purpose for purpose, number in spent.items() if number != before.get(purpose, 0))
            total, answered, before = sum(spent.values()), settled_count(killed), spent
            print(f"{kill + 1:>4} {answered:>7} {total:>7} {in_flight:>9} {asked}", flush=True)
            assert answered <= total <= answered + in_flight
            assert in_flight <= (kill + 1) * MICRO_BATCH
            assert total <= budget
        undisturbed.wait(PATIENCE)
        whole = finished(quiet)
        assert whole["queries"]["uncertain"] == 0
        assert whole["queries"]["total"] == count(quiet)
        assert {purpose: whole["queries"][purpose] for purpose in PLANNED} == PLANNED
        run(killed, budget).wait(PATIENCE)
        record = finished(killed)
        compare(record, whole, killed, quiet, tight)


def run(folder: Path, budget: int) -> "subprocess.Popen[bytes]":
    """Starts or continues the run beside the oracle of a folder."""
    directory = folder / "run"
    if (directory / "config.yaml").is_file():
        overrides = [f"resume={directory}"]
    else:
        overrides = [
            *CHOICES,
            f"+source.kwargs.folder={folder}",
            f"access.query_budget={budget}",
            f"run_dir={directory}",
        ]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "reprogram.commands.train", *overrides],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
        )  # fmt: skip


def wait_for(process: "subprocess.Popen[bytes]", folder: Path, moment: float) -> None:
    """Returns when the oracle has received so many images."""
    deadline = time.monotonic() + PATIENCE
    while count(folder) < moment:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.001)


def account(folder: Path) -> tuple[dict[str, int], int]:
    """Queries by purpose, and how many of them no answer has settled."""
    with closing(sqlite3.connect(folder / "run" / "ledger.sqlite")) as connection:
        spent = dict(connection.execute("SELECT purpose, spent FROM queries"))
        return spent, connection.execute("SELECT COALESCE(SUM(images), 0) FROM in_flight").fetchone()[0]


def finished(folder: Path) -> dict:
    """The record of a run that came to its end."""
    file = folder / "run" / "metrics.json"
    assert file.is_file(), (folder / "log").read_text()[-3000:]
    return json.loads(file.read_text())


def compare(record: dict, whole: dict, killed: Path, quiet: Path, tight: bool) -> None:
    """Checks the end of the killed run against its own account and against the quiet run."""
    queries, (spent, in_flight) = record["queries"], account(killed)
    answered = settled_count(killed)
    print(f" end {answered:>7} {queries['total']:>7} {in_flight:>9}")
    assert {purpose: queries[purpose] for purpose in spent} == spent
    assert queries["uncertain"] == in_flight
    assert answered <= queries["total"] <= answered + queries["uncertain"]
    assert queries["total"] <= queries["budget"]
    assert queries["total"] <= whole["queries"]["total"] + in_flight  # whatever was answered was paid for once
    assert record["queries"]["train"] - in_flight <= STEPS * STEP  # nothing that was answered was asked again
    history, expected = (last_history(folder) for folder in (killed, quiet))
    if tight:
        lost = -(-in_flight // STEP)
        assert STEPS - lost <= history[-1]["step"] <= STEPS
        print(f"ended after {history[-1]['step']} of {STEPS} steps, at least {STEPS - lost} expected")
        return
    programs = [load_file(folder / "run" / "program" / "program.safetensors") for folder in (killed, quiet)]
    assert programs[0].keys() == programs[1].keys()
    assert all(torch.equal(value, programs[1][key]) for key, value in programs[0].items())
    assert history == expected
    for key in ("val", "test", "best_step"):
        assert record[key] == whole[key]
    predictions = [(folder / "run" / "predictions.csv").read_text() for folder in (killed, quiet)]
    assert predictions[0] == predictions[1]
    print(f"program (of step {record['best_step']}), learning curve and predictions equal those of a run without kills")


def last_history(folder: Path) -> list[dict]:
    """One row for each validation."""
    checkpoint = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    history: list[dict] = checkpoint["reprogram"]["history"]
    return history


if __name__ == "__main__":
    main()
