"""What a study holds, as the rows of a sweep."""

import math
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from reprogram.sweeps.plan import Sweep
from reprogram.sweeps.queue import DONE, FAILURE, QUERIES, attempts, is_given_up
from reprogram.sweeps.rows import Row, State
from reprogram.sweeps.worker import RECORD, RUN_DIR, SECONDS


def rows(study: Study, sweep: Sweep) -> list[Row]:
    """One row for every job that was begun."""
    return [_row(job, tried, sweep) for job, tried in attempts(study.get_trials(deepcopy=False)).items()]


def _row(job: int, tried: Sequence[FrozenTrial], sweep: Sweep) -> Row:
    last = tried[-1]
    attrs, values = last.user_attrs, last.params or sweep.fixed(job)
    record = attrs.get(RECORD, {})
    curve = last.intermediate_values
    reached = curve[max(curve)] if curve else math.nan
    state: State = "not done"
    if last.state in DONE:
        state = "finished" if last.state is TrialState.COMPLETE else "ended early"
    elif is_given_up(tried, sweep.retries):
        state = "failed"
    return Row(
        job,
        state,
        values,
        tuple(sweep.job_overrides(values)),
        sweep.monitor.removeprefix("val/"),
        sweep.mode,
        record.get("score", reached if state == "ended early" and math.isfinite(reached) else None),
        record.get("test"),
        attrs.get(QUERIES),
        attrs.get(SECONDS),
        attrs.get(RUN_DIR, ""),
        attrs.get(FAILURE, "") if state == "failed" else "",
    )
