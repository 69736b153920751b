"""What grows with the number of processes: waiting for the account, and what processes tell each other.

    python -m scripts.benchmark_scaling run
    python -m scripts.benchmark_scaling report

- `account`: processes that each count 64 images, and store 64 answers of 1000 classes or none, as fast as they can; one
  SQLite file for all, or one PostgreSQL server (fsync off, as a test's) on the same machine.
- `reduction`: the mean over processes of a gradient (gloo over the loopback), as after each step.
"""

import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from benchmarking import command_line, environment, read, write

FILE = "scaling.json"
SECONDS = 3.0
PROCESSES = (1, 2, 4, 8)
IMAGES, CLASSES = 64, 1000  # of one micro-batch; of the source
GRADIENTS = {"64 weights": 64, "64 x 64 pixels": 3 * 64 * 64, "224 x 224 pixels": 3 * 224 * 224}
SPAWN = multiprocessing.get_context("spawn")


def run(output: Path) -> None:
    """Measures everything, and writes after each part."""
    from tests.integration import postgres_process

    record: dict[str, Any] = {"environment": environment(), "account": [], "reduction": []}
    with tempfile.TemporaryDirectory() as folder, postgres_process.running() as url:
        for place in ("file", "server"):
            for stored in (False, True):
                for processes in PROCESSES:
                    path = url if place == "server" else Path(folder) / f"{stored}{processes}.sqlite"
                    found = account(path, processes, stored)
                    record["account"].append({"place": place, "stored": stored, "processes": processes, **found})
                    print(record["account"][-1], flush=True)
    for processes in PROCESSES[1:3]:
        for name, numbers in GRADIENTS.items():
            found = reduction(processes, numbers)
            record["reduction"].append({"gradient": name, "numbers": numbers, "processes": processes, **found})
            print(record["reduction"][-1], flush=True)
    write(record, output / FILE)


def account(path: Path | str, processes: int, stored: bool) -> dict[str, float]:
    """Micro-batches a second of all processes, and how long one of them waits for the account."""
    found = together(processes, _book, path, stored)
    return {
        "batches_per_second": sum(len(times) for times in found) / SECONDS,
        "milliseconds": 1000 * statistics.median(one for times in found for one in times),
        "slowest_percent_milliseconds": 1000
        * sorted(one for times in found for one in times)[-1 - sum(map(len, found)) // 100],
    }


def reduction(processes: int, numbers: int) -> dict[str, float]:
    """Milliseconds of a mean over processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"milliseconds": 1000 * max(together(processes, _reduce, port, processes, numbers))}


def together(processes: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What processes return that begin at the same moment."""
    gate, results = SPAWN.Barrier(processes), SPAWN.Queue()
    started = [SPAWN.Process(target=work, args=(gate, results, index, *arguments)) for index in range(processes)]
    for process in started:
        process.start()
    found = [results.get() for _ in started]
    for process in started:
        process.join()
    return found


def _book(gate: Any, results: Any, index: int, path: Path | str, stored: bool) -> None:
    from reprogram.sources.ledger import Ledger

    ledger, times, answer = Ledger(path, f"run {index % 2}", 10**9), [], bytes(4 * CLASSES)
    ledger.total()
    gate.wait()
    started = time.perf_counter()
    with ledger.purpose("train"):
        while (now := time.perf_counter()) - started < SECONDS:
            ledger.spend(IMAGES)
            ledger.keep({os.urandom(32): answer for _ in range(IMAGES)} if stored else {})
            times.append(time.perf_counter() - now)
    results.put(times)


def _reduce(gate: Any, results: Any, rank: int, port: int, processes: int, numbers: int) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    gradient = torch.ones(numbers)
    gate.wait()
    times = []
    for _ in range(200):
        began = time.perf_counter()
        distributed.all_reduce(gradient)
        times.append(time.perf_counter() - began)
    results.put(statistics.median(times))
    distributed.destroy_process_group()


def report(output: Path) -> None:
    """Writes the tables."""
    record = read(output / FILE)
    found = record["environment"]
    (output / "scaling.md").write_text(
        TEXT.format(
            device=f"{found['device']}, Python {found['python']}, PyTorch {found['packages']['torch']}",
            account="\n".join(map(_account_row, _pairs(record["account"]))),
            reduction="\n".join(
                f"| {one['gradient']} | {4 * one['numbers']:,} | {one['processes']} | {one['milliseconds']:.2f} |"
                for one in record["reduction"]
            ),
        )
    )


def _pairs(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """With and without answers that are stored."""
    plain = [row for row in rows if not row["stored"]]
    stored = [row for row in rows if row["stored"]]
    return list(zip(plain, stored, strict=True))


def _account_row(pair: tuple[dict[str, Any], dict[str, Any]]) -> str:
    cells = (
        f"{one['batches_per_second']:,.0f} | {IMAGES * one['batches_per_second']:,.0f} | {one['milliseconds']:.2f} | "
        f"{one['slowest_percent_milliseconds']:.1f}"
        for one in pair
    )
    place = {"file": "SQLite file", "server": "PostgreSQL"}[pair[0]["place"]]
    return f"| {place} | {pair[0]['processes']} | {' | '.join(cells)} |"


TEXT = """# What grows with the number of processes

Made by

    python -m scripts.benchmark_scaling run; python -m scripts.benchmark_scaling report

on {device}. What follows from it for more machines: [scaling](../docs/scaling.md).

## The account

Processes that do nothing but count micro-batches of 64 images before and after they are sent, without and with 64
answers of 1000 classes to store (4 kB each). All share one account; two cores do the work of all, PostgreSQL's
(fsync off) too. *ms*: median of one micro-batch, and the time that one in a hundred exceeds.

| account | processes | batches/s | images/s | ms | 1 % | stored: batches/s | images/s | ms | 1 % |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{account}

## The gradient

Mean over processes (gloo, loopback), once a step; medians of 200.

| gradient | bytes | processes | ms |
| --- | ---: | ---: | ---: |
{reduction}
"""

if __name__ == "__main__":
    command_line(__doc__, {}, {"run": run, "report": report})
