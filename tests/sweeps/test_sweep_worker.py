"""A worker with runs that take no time: what it makes of how they end."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from reprogram import exit_codes
from reprogram.sources.ledger import LEDGER_FILE, OWN_RUN, Ledger, ledger_of
from reprogram.sweeps import worker
from reprogram.sweeps.queue import attempts
from reprogram.sweeps.results import rows
from reprogram.sweeps.storage import open_study
from reprogram.sweeps.worker import work


@pytest.fixture(autouse=True)
def _signals(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(worker, "POLL", 0.01)
    yield
    signal.signal(signal.SIGTERM, before)


def finish(folder: Path, value: float | None, queries: int = 7) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores = {"accuracy": {"value": value, "low": 0.1, "high": 0.9}}
    record = {"val": scores, "test": scores, "queries": {"total": queries}}
    (folder / "metrics.json").write_text(json.dumps(record))


@pytest.fixture
def runs(monkeypatch):
    """Stands in for the process of a run; ``act(number, folder, report, beat)`` gives its exit code."""

    def use(act: Any) -> list[list[str]]:
        commands: list[list[str]] = []

        def run(command, folder, environment, report, beat, every):
            commands.append(command)
            folder.mkdir(parents=True, exist_ok=True)
            return act(len(commands) - 1, folder, report, beat)

        monkeypatch.setattr(worker.jobs, "run", run)
        return commands

    return use


def states(study) -> dict[int, list[str]]:
    return {job: [trial.state.name for trial in tried] for job, tried in attempts(study.trials).items()}


def test_every_job_is_done_once_with_what_its_run_recorded(runs, sweep):
    commands = runs(lambda number, folder, report, beat: finish(folder, 0.5 + number / 10) or 0)
    plan = sweep()
    work(plan)
    study = open_study(plan)
    assert [trial.value for trial in study.trials] == pytest.approx([0.5, 0.6, 0.7])
    for trial, command in zip(study.trials, commands, strict=True):
        assert command[3:5] == ["data=digits", f"optimizer.lr={trial.params['optimizer.lr']!r}"]
        assert command[5] == f"run_dir='{trial.user_attrs['run_dir']}'"
    assert [(row.state, row.score) for row in rows(study, plan)] == [
        ("finished", trial.value) for trial in study.trials
    ]
    assert rows(study, plan)[0].test == {"value": 0.5, "low": 0.1, "high": 0.9}
    work(plan)
    assert len(commands) == 3


def test_a_run_directory_may_have_any_name(runs, sweep, tmp_path: Path):
    commands = runs(lambda number, folder, report, beat: finish(folder, 0.5) or 0)
    plan = sweep(jobs=1, folder=f"{tmp_path}/it's, a {{sweep}}")
    work(plan)
    found = OverridesParser.create().parse_override(commands[0][-1]).value()
    assert found == open_study(plan).trials[0].user_attrs["run_dir"]


def test_queries_are_counted_in_the_account_that_jobs_share(runs, sweep, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def act(number, folder, report, beat):
        finish(folder, 0.5)
        ledger_of(folder, "shared.sqlite").spend(9)
        return 0

    runs(act)
    plan = sweep(jobs=2, ledger="shared.sqlite", objectives=["score", "queries"])
    work(plan)
    assert [row.queries for row in rows(open_study(plan), plan)] == [9, 9]


def test_a_run_that_was_finished_is_read_and_not_made_again(runs, sweep):
    def act(number, folder, report, beat):
        finish(folder, 0.8)
        if number == 0:
            raise SystemExit(exit_codes.PREEMPTED)  # the worker is told to stop, just when the run has ended
        return 0

    commands = runs(act)
    plan = sweep(jobs=1)
    with pytest.raises(SystemExit) as caught:
        work(plan)
    assert caught.value.code == 75
    study = open_study(plan)
    assert states(study) == {0: ["FAIL"]}
    work(plan)
    assert states(study) == {0: ["FAIL", "COMPLETE"]}
    assert len(commands) == 1
    assert study.trials[0].params == study.trials[1].params


def test_a_failure_says_why_and_is_given_up(runs, sweep):
    def act(number, folder, report, beat):
        (folder / "output.log").write_text("task\nerror: no such weights\n")
        return 2 if number < 2 else -9

    runs(act)
    plan = sweep(jobs=1, retries=2)
    work(plan)
    study = open_study(plan)
    assert states(study) == {0: ["FAIL"] * 3}
    notes = [trial.user_attrs["failure"] for trial in study.trials]
    assert notes == ["no such weights", "no such weights", "killed by signal 9; no such weights"]
    (row,) = rows(study, plan)
    assert (row.state, row.note) == ("failed", notes[2])


def test_a_run_without_a_score_has_failed(runs, sweep):
    runs(lambda number, folder, report, beat: finish(folder, None) or 0)
    plan = sweep(jobs=1, retries=0)
    work(plan)
    assert open_study(plan).trials[0].user_attrs["failure"] == "val/accuracy is undefined"


def test_a_run_that_ends_early_keeps_its_curve_and_counts(runs, sweep):
    pruner = {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 2}

    def act(number, folder, report, beat):
        value = 0.9 - number / 10
        account = Ledger(folder / LEDGER_FILE, OWN_RUN)
        with account.purpose("train"):
            account.spend(11)
        if report([(0, 0.1), (1, value)]):
            return 0
        return finish(folder, value) or 0

    runs(act)
    plan = sweep(jobs=2, pruner=pruner, job_budget=100, query_budget=200)
    work(plan)
    study = open_study(plan)
    assert states(study) == {0: ["COMPLETE"], 1: ["PRUNED"]}
    assert [trial.intermediate_values for trial in study.trials] == [{0: 0.1, 1: 0.9}, {0: 0.1, 1: pytest.approx(0.8)}]
    assert [row.queries for row in rows(study, plan)] == [11, 11]
    assert rows(study, plan)[1].score == pytest.approx(0.8)
    assert rows(study, plan)[1].state == "ended early"


def test_a_run_that_ends_early_without_a_number_has_no_score(runs, sweep):
    runs(lambda number, folder, report, beat: 0 if report([(1, math.nan)]) else 1)
    pruner = {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1}
    plan = sweep(jobs=1, pruner=pruner)
    work(plan)
    row = rows(open_study(plan), plan)[0]
    assert (row.state, row.score) == ("ended early", None)


def test_a_worker_that_was_taken_for_dead_leaves_its_job_to_the_other(runs, sweep):
    plan = sweep(jobs=1)
    study = open_study(plan)

    def act(number, folder, report, beat):
        if number == 0:  # slow: meanwhile another has taken the job away
            (trial,) = study.get_trials(states=(TrialState.RUNNING,))
            study.tell(trial.number, state=TrialState.FAIL)
            beat()
        return finish(folder, 0.6) or 0

    commands = runs(act)
    work(plan)
    assert states(study) == {0: ["FAIL", "COMPLETE"]}
    assert commands[0] == commands[1]


def test_two_objectives(runs, sweep):
    runs(lambda number, folder, report, beat: finish(folder, 0.5, queries=30 - number) or 0)
    plan = sweep(jobs=2, objectives=["score", "queries"], job_budget=50)
    work(plan)
    assert [trial.values for trial in open_study(plan).trials] == [[0.5, 30.0], [0.5, 29.0]]
