"""One, two or four processes behind a black box: the same estimate, one account, and one end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reprogram.errors import QueryBudgetExceeded
from reprogram.sources.ledger import Ledger

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

COMMON = (
    "data=digits", "protocol.max_val=33", "protocol.max_test=40", "data.batch_size=16", "evaluation.baselines=[]",
    "access=black_box", "access.queries_per_second=1000", "program.resolution=4", "mapping=frequency",
    "mapping.refresh=once", "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=1.0",
    "scheduler=constant", "evaluation.num_resamples=20", "trainer.enable_progress_bar=false", "logger=none",
)  # fmt: skip
EPOCH = 7  # steps: six of 16 examples, and one of what is left


def _start(run_dir: Path, processes: int, *overrides: str) -> "subprocess.Popen[str]":
    parallel = ("trainer=ddp_cpu", f"trainer.devices={processes}") if processes > 1 else ()
    command = [sys.executable, "-m", "reprogram.commands.train", *COMMON, f"run_dir={run_dir}", *parallel, *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # another number of threads rounds differently
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _finish(process: "subprocess.Popen[str]", run_dir: Path) -> tuple[dict, torch.Tensor, str]:
    """The record, the program after the last step, and what was printed."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return json.loads((run_dir / "metrics.json").read_text()), state["classifier.program.theta"], printed


@pytest.mark.parametrize(
    ("estimator", "per_example", "numbers", "train"),
    [
        (("estimator=two_sided", "estimator.smoothing=2"), 2, (1, 2, 4), 97),  # the last batch is one example
        (("estimator=one_sided", "estimator.num_directions=4", "estimator.smoothing=2"), 5, (1, 2), 106),
        (("estimator=spsa", "estimator.num_directions=2", "estimator.a=0.5", "estimator.c=0.1"), 4, (1, 2), 106),
    ],
    ids=["two_sided", "one_sided", "spsa"],
)
def test_the_same_estimate_and_the_same_account(estimator, per_example, numbers, train, tmp_path: Path) -> None:
    left = train - 6 * 16
    # for one process; each further one whose share of a batch is empty sends an image of it all the same
    planned = {"train": 2 * train * per_example, "mapping": train, "validation": 3 * 33, "test": 40}
    budget = sum(planned.values()) + 16 * per_example + 2 * 3 * per_example + 3 + 3 * 3  # a whole step is held
    thetas = []
    for number in numbers:
        run_dir = tmp_path / str(number)
        overrides = (f"protocol.max_train={train}", f"access.query_budget={budget}", "access.validations=3")
        process = _start(run_dir, number, *estimator, *overrides, f"trainer.max_steps={2 * EPOCH}")
        record, theta, _ = _finish(process, run_dir)
        thetas.append(theta)
        queries = record["queries"]
        filler = max(0, number - left)
        assert queries["train"] == planned["train"] + 2 * filler * per_example
        assert queries["test"] == planned["test"]
        # an image that another process is asking for at this moment is asked twice, later it is in the store
        assert 0 <= queries["mapping"] - planned["mapping"] <= filler
        assert 0 <= queries["validation"] - planned["validation"] <= 3 * (number - 1)
        assert queries["total"] <= budget
        assert queries["uncertain"] == 0
        assert record["history"][-1]["queries"] == queries["train"] + queries["mapping"]
    assert thetas[0].abs().max() > 0.02  # something was learned
    for theta in thetas[1:]:
        difference = (theta - thetas[0]).norm() / thetas[0].norm()
        assert difference < 1e-3  # answers vary by 1e-5 with the size of a batch, and D / mu magnifies that


def test_all_processes_stop_together_when_others_empty_the_account(tmp_path: Path) -> None:
    budget, file, run_dir = 40_000, tmp_path / "shared.sqlite", tmp_path / "run"
    others = Ledger(file, "others", budget)
    process = _start(
        run_dir, 2, "estimator=two_sided", "protocol.max_train=96", "protocol.max_val=32",
        f"access.query_budget={budget}", f"access.ledger={file}",
    )  # fmt: skip
    mine = Ledger(file, str(run_dir), budget)
    deadline = time.monotonic() + 120
    while mine.spent()["train"] < 500:
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while True:
        try:
            others.spend(others.free() or 0)
            break
        except QueryBudgetExceeded:  # the run took some between the two calls
            continue
    others.keep({})
    record, _, printed = _finish(process, run_dir)
    queries = record["queries"]
    assert "budget   spent after" in printed
    assert 500 <= queries["train"] < 20_000  # of some 39,000 planned
    assert queries["train"] % 32 == 0  # whole steps
    assert (queries["validation"], queries["test"]) == (2 * 32, 40)  # the first, and one where it stopped
    assert others.total() <= budget
    assert mine.free() == budget - others.total()  # nothing stays reserved
    assert record["best_step"] * 32 <= queries["train"]


def test_two_processes_that_were_cut_off_pay_for_no_answer_twice(tmp_path: Path) -> None:
    train, run_dir = 64, tmp_path / "run"
    needed = 2 * 8 * train + train + 2 * 34 + 40  # the last batch of 33 is one image for each of two processes
    choice = (
        "estimator=two_sided", f"protocol.max_train={train}", "access.validations=2", "access.store=on",
        "callbacks.checkpoint_every=1000", f"access.query_budget={needed}",
    )  # fmt: skip
    process = _start(run_dir, 2, *choice)
    account, deadline = Ledger(run_dir / "ledger.sqlite", "."), time.monotonic() + 120
    while not (run_dir / "ledger.sqlite").exists() or account.spent()["train"] < 20 * 32:  # of 32 steps
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    spent = account.spent()
    record, _, printed = _finish(_start(run_dir, 2, *choice), run_dir)
    lost = record["queries"]["uncertain"]
    assert record["queries"]["total"] <= needed
    assert record["queries"]["train"] >= spent["train"]
    steps = record["history"][-1]["step"]
    assert 32 - -(-lost // 32) <= steps <= 32, printed[-3000:]  # lost queries cost their steps, and nothing else does
