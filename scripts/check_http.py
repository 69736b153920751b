"""Trains behind a scoring API that fails and dies, with a client that is killed, and compares the accounts.

    OMP_NUM_THREADS=1 python -m scripts.check_http --seed 0
    OMP_NUM_THREADS=1 python -m scripts.check_http --same

``reprogram-serve`` spoils 20 % of its replies, in all eight ways, and writes down what it charges before it asks the
model. The client, a budgeted black-box run, is killed (SIGKILL) three times at random moments and continued by the same
command; the server is killed once, and started again seconds later, while the client goes on. Again and again

    charged <= ledger <= charged + uncertain                       (images in flight are uncertain)
    ledger = answers in the store + drift checks + failed + in flight

and a kill of the client leaves at most ``source.concurrency`` requests in flight. In the end there are records with a
test score, and whatever was answered was paid for once.

With ``--same`` nothing fails, and the run is compared with one in this process, of the same encoding and seed. Where
the network sees the images one by one on both sides, they are equal to the last bit; batches of other sizes round
otherwise, and the differences that a gradient is estimated from make that larger.
"""

import argparse
import csv
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
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.integration.server_process import ROOT, ServerProcess, running

CONCURRENCY, AT_ONCE = 4, 2  # requests under way, images of one
CLIENT_KILLS = 3
KINDS = ("status_429", "status_500", "slow", "reset", "truncated", "wrong_count", "nan", "duplicate")
RATE = 0.2
TIMEOUT, LATE = 1.0, 1.5  # seconds: of the client's patience, and of a slow reply
STEPS, STEP = 40, 24  # queries of a step: two for each of 12 examples
PLANNED = {"train": STEPS * STEP, "mapping": 2 * 96, "validation": 5 * 40, "test": 40, "baseline": 40}
TOTAL = sum(PLANNED.values())
BUDGET = 2 * TOTAL  # room for what fails
CHOICES = (
    *("recipe=black_box", "data=digits", "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40"),
    *("data.batch_size=12", "program.size=32", "program.resolution=4", "optimizer.lr=0.1", "callbacks.patience=null"),
    *("callbacks.confidence=null", "mapping.refresh=once", f"trainer.max_steps={STEPS}"),
    *("callbacks.checkpoint_every=5", "evaluation.baselines=[mapping_only]", "evaluation.num_resamples=20"),
    *("trainer.enable_progress_bar=false", "logger=none", "access.encoding=png", "access.store=on"),
    *("access.queries_per_second=100", f"access.query_budget={BUDGET}"),
)
CLIENT = (
    *("source=http", "source.image_size=[64,64]", "source.adapter.model=embedded", "source.adapter.content=files"),
    *("source.adapter.outputs=log_probabilities", f"source.adapter.images_per_request={AT_ONCE}"),
    *(f"source.concurrency={CONCURRENCY}", "source.attempts=20", "source.longest_wait=1", "source.pause=1"),
)
SERVER = ("source=embedded", "source.prepare=false", "name=embedded")
PATIENCE = 180  # seconds until a run that makes no progress is given up
QUIET = 2 * LATE  # seconds without a charge after which none is to come from a client that is dead


def main() -> None:
    """Reads the command line; leaves with 1 if an account does not balance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--same", action="store_true", help="compare with a run without HTTP")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.same:
            same(Path(folder))
        else:
            check(Path(folder), arguments.seed)


def check(folder: Path, seed: int) -> None:
    """Runs once, with all that goes wrong."""
    numbers = random.Random(seed)
    rates = (f"faults.{kind}={RATE / len(KINDS)}" for kind in KINDS)
    victims = ["client"] * CLIENT_KILLS + ["server"]
    numbers.shuffle(victims)
    with running(folder, *SERVER, *rates, f"faults.seconds={LATE}", f"faults.seed={seed}") as server:
        print(f"{'killed':>8} " + " ".join(f"{field.name.replace('_', ' '):>9}" for field in fields(Account)))
        process, lost = train(folder, server), 0
        for kill, victim in enumerate(victims):
            moment = (kill + numbers.random()) / len(victims) * 0.9 * TOTAL * (1 + RATE)
            while server.charged() < moment:
                process = alive(process, folder, server)
                time.sleep(0.05)
                balance(folder, server)
            time.sleep(numbers.uniform(0, 0.1))
            if victim == "server":
                server.kill()
                time.sleep(numbers.uniform(0, 3))
                server.start()
                process = alive(process, folder, server)
            else:
                assert process.poll() is None, "the run was finished before it could be killed"
                process.send_signal(signal.SIGKILL)
                process.wait()
                settle(server)
            account = balance(folder, server)
            print(f"{victim:>8} {account}", flush=True)
            if victim == "client":
                assert account.in_flight - lost <= CONCURRENCY * AT_ONCE
                lost = account.in_flight
                process = train(folder, server)
        while process.wait(PATIENCE):
            process = alive(process, folder, server)
        settle(server)
        account = balance(folder, server)
        print(f"{'end':>8} {account}")
    assert account.in_flight == lost
    finished(folder, account)


@dataclass(frozen=True)
class Account:
    """Images, at one moment."""

    charged: int
    ledger: int
    stored: int
    failed: int
    uncertain: int
    in_flight: int

    def __str__(self) -> str:
        """A row of the table."""
        return " ".join(f"{getattr(self, field.name):>9}" for field in fields(self))


def balance(folder: Path, server: ServerProcess) -> Account:
    """Compares both sides, whatever is under way: what one side wrote before is with the other afterwards."""
    before = server.charged()
    account = accounted(folder)
    now = server.charged()
    assert before <= account["ledger"] <= now + account["uncertain"], (before, account, now)
    return Account(now, **account)


def accounted(folder: Path) -> dict[str, int]:
    """The client's side; its statements hold at one moment."""
    file = folder / "run" / "ledger.sqlite"
    names = ("ledger", "stored", "drift", "failed", "unclear", "in_flight")
    if not file.is_file():
        return dict.fromkeys(("ledger", "stored", "failed", "uncertain", "in_flight"), 0)
    other = "purpose = 'other'"
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
            return accounted(folder / "nowhere")
        found = connection.execute(
            "SELECT (SELECT COALESCE(SUM(spent), 0) FROM queries), (SELECT COUNT(*) FROM answers), "
            f"(SELECT COALESCE(SUM(spent), 0) FROM queries WHERE {other}) - "
            f"(SELECT COALESCE(SUM(charged + unclear), 0) FROM failures WHERE {other}) - "
            f"(SELECT COALESCE(SUM(images), 0) FROM in_flight WHERE {other}), "
            "(SELECT COALESCE(SUM(charged + unclear), 0) FROM failures), "
            "(SELECT COALESCE(SUM(unclear), 0) FROM failures), (SELECT COALESCE(SUM(images), 0) FROM in_flight)"
        ).fetchone()
    sums = dict(zip(names, found, strict=True))
    drift, unclear = sums.pop("drift"), sums.pop("unclear")
    assert sums["ledger"] == sums["stored"] + drift + sums["failed"] + sums["in_flight"], (sums, drift)
    return {**sums, "uncertain": unclear + sums["in_flight"]}


def train(folder: Path, server: ServerProcess | None, *choices: str, name: str = "run") -> "subprocess.Popen[bytes]":
    """Starts or continues a run: the command is the same."""
    where = () if server is None else (*CLIENT, f"source.url={server.url}", f"source.timeout={TIMEOUT}")
    overrides = (*CHOICES, *where, *choices, f"run_dir={folder / name}")
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "reprogram.commands.train", *overrides],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
        )  # fmt: skip


def alive(process: "subprocess.Popen[bytes]", folder: Path, server: ServerProcess) -> "subprocess.Popen[bytes]":
    """The run; continued if it said that the service failed too often, as its message advises."""
    if process.poll() is None:
        return process
    said = (folder / "run.log").read_text()
    assert process.returncode, "the run was finished before all were killed"
    assert "nothing paid for is lost" in said.splitlines()[-1], said[-3000:]
    print("continued after:", said.splitlines()[-1])
    return train(folder, server)


def settle(server: ServerProcess) -> None:
    """Waits until the server has dealt with what a client had sent."""
    charged, since = server.charged(), time.monotonic()
    while time.monotonic() - since < QUIET:
        time.sleep(0.1)
        if server.charged() != charged:
            charged, since = server.charged(), time.monotonic()


def record_of(folder: Path, name: str) -> dict:
    """Of a run that came to its end."""
    file = folder / name / "metrics.json"
    assert file.is_file(), (folder / f"{name}.log").read_text()[-3000:]
    return json.loads(file.read_text())


def finished(folder: Path, account: Account) -> None:
    """Checks the end of a run against its account."""
    record = record_of(folder, "run")
    queries, score = record["queries"], record["test"]["balanced_accuracy"]
    assert queries["total"] == account.ledger
    assert queries["uncertain"] == account.uncertain
    assert queries["total"] <= BUDGET
    assert account.stored <= TOTAL  # whatever was answered was paid for once
    assert record["history"][-1]["step"] == STEPS
    value = score["value"] if isinstance(score, dict) else score
    print(
        f"{STEPS} steps, test score {value:.3f}: of {account.charged} images charged {account.stored} are stored, of "
        f"{TOTAL} planned; the ledger has {account.ledger}, {account.uncertain} of them uncertain"
    )


def same(folder: Path) -> None:
    """Runs the same training with and without HTTP, image by image and in batches."""
    for name, images, together in (("alone", 1, 1), ("batches", AT_ONCE, 8)):
        print(f"{name}: {images} images a request, {together} requests a batch of the server")
        compare(folder / name, images, together)


def compare(folder: Path, images: int, together: int) -> None:
    """One training with and one without HTTP; a network rounds otherwise in a batch of another size."""
    with running(folder, *SERVER, f"max_batch_size={together}") as server:
        choice = f"source.adapter.images_per_request={images}"
        served = train(folder, server, choice, name="served")
        assert served.wait(PATIENCE) == 0, (folder / "served.log").read_text()[-3000:]
        charged = server.charged()
    choices = ("source=embedded", "source.prepare=false", f"access.micro_batch={images * together}")
    assert train(folder, None, *choices, name="here").wait(PATIENCE) == 0, (folder / "here.log").read_text()[-3000:]
    queries = [record_of(folder, name)["queries"] for name in ("served", "here")]
    assert queries[0] == queries[1], queries
    assert charged == queries[0]["total"]
    thetas = [load_file(folder / name / "program" / "program.safetensors") for name in ("served", "here")]
    change = max((value - thetas[1][key]).abs().max().item() for key, value in thetas[0].items())
    size = max(value.abs().max().item() for value in thetas[1].values())
    scores = [probabilities(folder / name / "predictions.csv") for name in ("served", "here")]
    apart, others = (scores[0] - scores[1]).abs().max().item(), int((scores[0].argmax(1) != scores[1].argmax(1)).sum())
    print(f"queries: {queries[0]['total']} both, and {charged} charged")
    print(f"program: largest difference {change:g} of values up to {size:g}")
    print(f"probabilities: largest difference {apart:g}, and {others} other decisions, of {len(scores[0])} images")
    if together == 1:
        assert change == apart == 0
    assert others <= len(scores[0]) // 20


def probabilities(file: Path) -> Tensor:
    """[N, K] of a run's predictions."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return torch.tensor([[float(value) for key, value in row.items() if key.startswith("score_")] for row in rows])


if __name__ == "__main__":
    main()
