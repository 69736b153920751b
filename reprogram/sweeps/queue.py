"""Which jobs of a sweep are to be done: read from the trials, so that any worker can put right what another left.

A job is one result wanted; a trial of the study is one attempt at it, marked with both numbers. Of trials with the same
mark the first counts, whoever added the others; and an attempt is only added once the one before has failed. So there
is at most one result of a job, and nothing to lock.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from reprogram.sweeps.plan import Sweep

JOB, ATTEMPT, BEAT, FAILURE, QUERIES = "job", "attempt", "beat", "failure", "queries"
MOST_LOST = 20  # attempts at one job that ended with their worker: then the job may be what kills it

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def attempts(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """The attempts at each job that count, first to last."""
    found: dict[tuple[int, int], FrozenTrial] = {}
    for trial in sorted(trials, key=lambda one: one.number):
        if JOB in trial.user_attrs:
            found.setdefault((trial.user_attrs[JOB], trial.user_attrs[ATTEMPT]), trial)
    jobs: dict[int, list[FrozenTrial]] = {}
    for (job, _), trial in sorted(found.items(), key=lambda item: item[0]):
        jobs.setdefault(job, []).append(trial)
    return jobs


def is_given_up(tried: Sequence[FrozenTrial], retries: int) -> bool:
    """Whether a job failed, or was lost with its worker, too often."""
    ended = [trial for trial in tried if trial.state is TrialState.FAIL]
    failed = sum(FAILURE in trial.user_attrs for trial in ended)
    return len(ended) == len(tried) and (failed > retries or len(ended) - failed >= MOST_LOST)


@dataclass(frozen=True)
class Wanted:
    """An attempt that nobody has added yet, with the values that are settled."""

    job: int
    attempt: int
    values: Mapping[str, Any]


def wanted(trials: Sequence[FrozenTrial], sweep: Sweep) -> list[Wanted]:
    """The attempts to add: jobs not begun, as far as the budget allows, and those whose last attempt failed."""
    tried = attempts(trials)
    found: list[Wanted] = []
    for job in range(sweep.jobs):
        if job not in tried:
            new = sum(other.attempt == 0 for other in found)
            if not _affordable([*tried.values(), *([[]] * (new + 1))], sweep):
                break
            found.append(Wanted(job, 0, sweep.fixed(job)))
        elif tried[job][-1].state is TrialState.FAIL and not is_given_up(tried[job], sweep.retries):
            # an attempt may have ended before it had chosen all
            values = max((trial.params or sweep.fixed(job) for trial in tried[job]), key=len)
            found.append(Wanted(job, len(tried[job]), values))
    return found


def is_finished(trials: Sequence[FrozenTrial], sweep: Sweep) -> bool:
    """Whether nothing is to be done, and nothing under way."""
    under_way = any(tried[-1].state in (TrialState.WAITING, TrialState.RUNNING) for tried in attempts(trials).values())
    return not under_way and not wanted(trials, sweep)


def fill(study: Study, sweep: Sweep) -> None:
    """Adds what is to be added."""
    for attempt in wanted(study.get_trials(deepcopy=False), sweep):
        add(study, attempt)


def add(study: Study, attempt: Wanted) -> None:
    """Puts an attempt into the queue."""
    study.enqueue_trial(dict(attempt.values), user_attrs={JOB: attempt.job, ATTEMPT: attempt.attempt})


def fail(study: Study, trial: FrozenTrial) -> bool:
    """Takes an attempt for lost; ``False`` if it has ended meanwhile."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return False
    return True


class Watch:
    """Tells which attempts have lost their worker.

    A worker counts up a mark on its trial; whoever sees no change for the grace time, by its own clock, takes the
    worker for dead. (Optuna's heartbeats are for databases alone, and for ``Study.optimize``.) Of the time between two
    looks at most a quarter of the grace time counts, or a machine that was asleep would take all others for dead.

    Args:
        grace: Seconds.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self._seen: dict[int, tuple[object, float]] = {}
        self._looked = time.monotonic()

    def lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that run without a sign of life."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, self.grace / 4), now
        found = []
        for trial in trials:
            if trial.state is not TrialState.RUNNING or JOB not in trial.user_attrs:
                continue
            beat = trial.user_attrs.get(BEAT)
            last, silent = self._seen.get(trial.number, (None, -passed))
            silent = silent + passed if beat == last else 0.0
            self._seen[trial.number] = beat, silent
            if silent > self.grace:
                found.append(trial)
        return found


def _affordable(jobs: Sequence[Sequence[FrozenTrial]], sweep: Sweep) -> bool:
    """Whether so many jobs stay within the budget, each that is not done taken for as dear as it may become."""
    if sweep.query_budget is None:
        return True
    assert sweep.job_budget is not None
    spent = 0
    for tried in jobs:
        done = [trial.user_attrs[QUERIES] for trial in tried[-1:] if trial.state in DONE]
        spent += done[0] if done and done[0] is not None else sweep.job_budget
    return spent <= sweep.query_budget
