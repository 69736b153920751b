"""Takes one job after the other from the queue, until every job of the sweep is done."""

import json
import logging
import math
import os
import platform
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState

from reprogram import exit_codes
from reprogram.channel import Curve
from reprogram.errors import ReprogramError
from reprogram.preemption import Preempted
from reprogram.sources.ledger import ledger_of
from reprogram.sweeps import job as jobs
from reprogram.sweeps.plan import Sweep
from reprogram.sweeps.queue import (
    ATTEMPT,
    BEAT,
    FAILURE,
    JOB,
    QUERIES,
    Watch,
    attempts,
    fail,
    fill,
    is_finished,
)  # fmt: skip
from reprogram.sweeps.rows import brief
from reprogram.sweeps.samplers import choose, pruner, sampler
from reprogram.sweeps.space import Value, override
from reprogram.sweeps.storage import open_study

POLL = 2.0  # seconds between two looks at a queue with nothing to do

RUN_DIR, WORKER, RECORD, SECONDS = "run_dir", "worker", "record", "seconds"

log = logging.getLogger(__name__)


def work(sweep: Sweep, index: int = 0) -> None:
    """Works until nothing is left to do; SIGTERM ends the job, gives it back and leaves with 75.

    Args:
        sweep: What to do.
        index: Which worker of this machine this is.
    """
    signal.signal(signal.SIGTERM, _preempted)
    study = open_study(sweep)
    study.pruner = pruner(sweep)
    watch = Watch(sweep.grace)
    while True:
        for trial in watch.lost(study.get_trials(deepcopy=False)):
            if fail(study, trial):
                log.info("job %d: its worker gave no sign of life, it is tried again", trial.user_attrs[JOB])
        fill(study, sweep)
        claimed = _claim(study, sweep)
        if claimed is not None:
            _attempt(study, claimed, sweep, index)
        elif is_finished(study.get_trials(deepcopy=False), sweep):
            return
        else:
            time.sleep(min(POLL, sweep.grace / 4))


def _claim(study: Study, sweep: Sweep) -> Trial | None:
    """An attempt from the queue, now ours."""
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return None
    trial = study.ask()  # another worker may have been quicker: then it is a new one, without a mark
    marks = trial.user_attrs
    counted = attempts(study.get_trials(deepcopy=False)).get(marks.get(JOB, -1), [])
    if trial.number not in [one.number for one in counted]:  # or two workers have added the same attempt
        study.tell(trial, state=TrialState.FAIL)
        return None
    study.sampler = sampler(sweep, marks[JOB])
    return trial


def _attempt(study: Study, trial: Trial, sweep: Sweep, index: int) -> None:
    """Does a job, and says how it ended."""
    started, beats = time.monotonic(), 0
    number = trial.user_attrs[JOB]
    pruned = False

    def beat() -> None:
        nonlocal beats
        beats += 1
        trial.set_user_attr(BEAT, beats)

    def report(curve: Curve) -> bool:
        nonlocal pruned
        if len(sweep.objectives) > 1:  # Optuna knows one curve
            return False
        for step, value in curve:
            trial.report(value, step)
        pruned = trial.should_prune()
        return pruned

    try:
        trial.set_user_attr(WORKER, f"{platform.node()} worker {index} pid {os.getpid()}")
        values = choose(trial, sweep)
        folder = sweep.run_dir(number, values)
        trial.set_user_attr(RUN_DIR, str(folder))
        code = 0
        if not (folder / "metrics.json").is_file():
            command = [sys.executable, "-m", "reprogram.commands.train", *sweep.job_overrides(values)]
            environment = _environment(sweep, index)
            command.append(override("run_dir", str(folder)))
            code = jobs.run(command, folder, environment, report, beat, sweep.grace / 4)
        trial.set_user_attr(QUERIES, _queries(sweep, folder))
        trial.set_user_attr(SECONDS, round(time.monotonic() - started, 1))
        _conclude(study, trial, sweep, folder, code, pruned, values)
    except UpdateFinishedTrialError:
        log.warning("job %d: another worker took this one for dead, and does it again", number)
    except (KeyboardInterrupt, SystemExit):  # no FAILURE: it is given back
        with suppress(ValueError, UpdateFinishedTrialError):
            study.tell(trial, state=TrialState.FAIL)
        raise


def _conclude(
    study: Study, trial: Trial, sweep: Sweep, folder: Path, code: int, pruned: bool, values: dict[str, Value]
) -> None:
    number, chosen = trial.user_attrs[JOB], " ".join(f"{key}={brief(value)}" for key, value in values.items())
    try:
        found = _read(folder, sweep)
    except (OSError, ValueError, KeyError, ReprogramError) as error:
        if pruned and code == 0:
            study.tell(trial, state=TrialState.PRUNED)
            log.info("job %d: ended early, others do better  %s", number, chosen)
        elif code == exit_codes.PREEMPTED:  # as if its worker had been told to stop
            study.tell(trial, state=TrialState.FAIL)
        else:
            reason = jobs.last_words(folder) if code else str(error)
            reason = f"killed by signal {-code}; {reason}" if code < 0 else reason
            trial.set_user_attr(FAILURE, reason)
            study.tell(trial, state=TrialState.FAIL)
            log.error("job %d, attempt %d: failed: %s", number, trial.user_attrs[ATTEMPT] + 1, reason)
        return
    trial.set_user_attr(RECORD, found)
    study.tell(trial, [found[name] for name in sweep.objectives])
    log.info("job %d: %s %.4f  %s", number, sweep.monitor, found["score"], chosen)


def _read(folder: Path, sweep: Sweep) -> dict[str, Any]:
    """What counts of a finished run: by validation it is chosen, test stands beside it."""
    record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metric = sweep.monitor.removeprefix("val/")
    score = record["val"][metric]["value"]
    if score is None or not math.isfinite(score):
        raise ValueError(f"{sweep.monitor} is undefined")
    return {"score": score, "test": record["test"][metric], "queries": record["queries"]["total"]}


def _queries(sweep: Sweep, folder: Path) -> int | None:
    """What a job has asked, however it ended."""
    account = ledger_of(folder, sweep.ledger)
    return sum(account.spent().values()) if account.exists() else None


def _environment(sweep: Sweep, index: int) -> dict[str, str]:
    """Shares the machine between its workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // sweep.workers)
    found = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    if sweep.devices:
        found["CUDA_VISIBLE_DEVICES"] = str(sweep.devices[index % len(sweep.devices)])
    return found


def _preempted(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would keep the job's checkpoint from being written
    raise Preempted
