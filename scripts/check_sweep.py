"""Runs a sweep of 24 jobs on a real PostgreSQL while a worker is killed twice, and the whole command once.

    OMP_NUM_THREADS=1 python -m scripts.check_sweep --seed 0

Four workers of one command work on one study. One of them is killed (SIGKILL) in the middle of a job, and again when it
has been replaced and is in the middle of another; later the command itself is killed, and given again. In the end there
are 24 results, one for each job, each from a folder of its own with a finished run; nothing was done twice; the command
given once more does nothing but show the summary; and the password is in no file and no table.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from reprogram.errors import RunError
from reprogram.sweeps.queue import ATTEMPT, BEAT, FAILURE, JOB, attempts
from reprogram.sweeps.storage import load_study
from reprogram.sweeps.worker import RUN_DIR, WORKER
from tests.integration.postgres_process import PASSWORD, missing, running

ROOT = Path(__file__).parents[1]
JOBS, WORKERS, VICTIM = 24, 4, 1
NAME = "check"
PATIENCE = 1500  # seconds
RUN = (
    *("data=digits", "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40", "mapping=frequency"),
    *("trainer.max_epochs=2", "evaluation.baselines=[]", "evaluation.num_resamples=20", "logger=none"),
    *("trainer.enable_progress_bar=false", "callbacks.checkpoint_every=2"),
)
SEARCH = (
    *("sweep=tpe", "sweep/space=none", "+sweep.space.optimizer.lr={low: 0.01, high: 0.5, log: true}"),
    *("+sweep.space.program.size={low: 20, high: 48, step: 4}", "+sweep.space.scheduler=[constant,cosine]"),
    *(f"sweep.jobs={JOBS}", f"sweep.workers={WORKERS}", "sweep.grace=12", f"sweep.name={NAME}"),
)


def main() -> None:
    """Reads the command line; leaves with 1 if a result is missing or there twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder, running() as url:
        check(Path(folder), url, random.Random(arguments.seed))


def check(folder: Path, url: str, numbers: random.Random) -> None:
    """One sweep, with all that goes wrong."""
    started = time.monotonic()
    process = start(folder, url)
    lost: list[int] = []
    for kill, moment in enumerate((JOBS // 6, JOBS // 2)):
        trial = wait_for_job(folder, url, process, moment, numbers, lost)
        os.kill(pid_of(trial), signal.SIGKILL)
        lost.append(trial.number)
        say(started, f"kill {kill + 1}: {trial.user_attrs[WORKER]}, at job {trial.user_attrs[JOB]}")
    wait_for_job(folder, url, process, 3 * JOBS // 4, numbers, lost)
    process.kill()
    process.wait()
    under_way = [trial.user_attrs[JOB] for trial in trials(folder, url) if trial.state is TrialState.RUNNING]
    say(started, f"the command killed, at jobs {sorted(under_way)}")
    time.sleep(2)
    process = start(folder, url)
    assert process.wait(PATIENCE) == 0, said(folder)
    say(started, "the command is done")
    found = balance(folder, url, lost)
    assert start(folder, url).wait(PATIENCE) == 0, said(folder)
    assert len(trials(folder, url)) == len(found), "the command given once more did something"
    say(started, "given once more, it did nothing")
    secret = PASSWORD.encode()
    assert not [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert PASSWORD not in repr([(trial.user_attrs, trial.system_attrs) for trial in found])
    for line in said(folder).splitlines():
        if line.startswith("worker ") or "no sign of life" in line or "took this one" in line:
            print(line)


def balance(folder: Path, url: str, lost: list[int]) -> list[FrozenTrial]:
    """Compares the study with the folders."""
    found = trials(folder, url)
    results = [trial for trial in found if trial.state is TrialState.COMPLETE]
    jobs = Counter(trial.user_attrs[JOB] for trial in results)
    assert jobs == dict.fromkeys(range(JOBS), 1), jobs
    assert len({json.dumps(trial.params, sort_keys=True) for trial in results}) == JOBS
    folders = {trial.user_attrs[RUN_DIR] for trial in results}
    finished = {str(path.parent.relative_to(folder)) for path in folder.glob("runs/*/*/metrics.json")}
    assert folders == finished, (folders, finished)
    for trial in results:
        record = json.loads((folder / trial.user_attrs[RUN_DIR] / "metrics.json").read_text())
        assert record["val"]["balanced_accuracy"]["value"] == trial.value
    assert all(found[number].state is TrialState.FAIL and FAILURE not in found[number].user_attrs for number in lost)
    states = Counter(trial.state.name for trial in found)
    tried = Counter(trial.user_attrs[ATTEMPT] + 1 for trial in results)
    print(f"{len(found)} trials: {dict(states)}; {len(results)} results of {len(jobs)} jobs in {len(folders)} folders")
    print(f"attempts a result took: {dict(sorted(tried.items()))}; continued runs: {continued(folder)}")
    assert all(len(one) - 1 == one[-1].user_attrs[ATTEMPT] for one in attempts(found).values())
    return found


def continued(folder: Path) -> int:
    """Runs that an attempt continued from a checkpoint of the one before."""
    return sum("continuing from" in path.read_text() for path in folder.glob("runs/*/*/output.log"))


def wait_for_job(
    folder: Path,
    url: str,
    process: "subprocess.Popen[bytes]",
    done: int,
    numbers: random.Random,
    lost: list[int],
) -> FrozenTrial:
    """A job that the victim is in the middle of, once so many are done."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, said(folder)
        found = trials(folder, url)
        if sum(trial.state is TrialState.COMPLETE for trial in found) >= done:
            for trial in found:
                under_way = trial.state is TrialState.RUNNING and trial.user_attrs.get(BEAT, 0) >= 2
                if under_way and trial.number not in lost and f"worker {VICTIM} " in trial.user_attrs[WORKER]:
                    time.sleep(numbers.uniform(0, 2))
                    return trial
        time.sleep(0.3)
    raise AssertionError(said(folder))


def start(folder: Path, url: str) -> "subprocess.Popen[bytes]":
    """Begins the sweep, or continues it: the command is the same."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "sweep.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "reprogram.commands.sweep", *RUN, *SEARCH, f"sweep.storage={url}"],
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip


def trials(folder: Path, url: str) -> list[FrozenTrial]:
    """All of the study; none before it is made."""
    try:
        return study(folder, url).get_trials(deepcopy=False)
    except RunError:
        return []


@cache
def study(folder: Path, url: str) -> Study:
    """With one connection."""
    return load_study(folder, url, NAME)


def pid_of(trial: FrozenTrial) -> int:
    """Of the worker that has a job."""
    found = re.search(r"pid (\d+)", trial.user_attrs[WORKER])
    assert found is not None
    return int(found[1])


def said(folder: Path) -> str:
    """What the command printed."""
    return (folder / "sweep.log").read_text()


def say(started: float, what: str) -> None:
    """With the time."""
    print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
