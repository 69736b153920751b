import optuna
import pytest
from optuna.trial import TrialState

from reprogram.sweeps import queue
from reprogram.sweeps.queue import (
    ATTEMPT,
    BEAT,
    FAILURE,
    JOB,
    QUERIES,
    Wanted,
    Watch,
    add,
    attempts,
    fill,
    is_finished,
    wanted,
)


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize")


def take(study, **attributes):
    trial = study.ask()
    trial.suggest_float("optimizer.lr", 0.01, 1.0, log=True)
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def test_every_job_is_added_once(study, sweep):
    fill(study, sweep())
    fill(study, sweep())
    assert [trial.user_attrs for trial in study.trials] == [{JOB: job, ATTEMPT: 0} for job in range(3)]
    assert all(trial.state is TrialState.WAITING for trial in study.trials)
    fill(study, sweep(jobs=5))
    assert len(study.trials) == 5


def test_a_job_that_failed_is_tried_again_with_its_values_and_then_given_up(study, sweep):
    fill(study, sweep())
    trial = take(study, **{FAILURE: "out of memory"})
    study.tell(trial, state=TrialState.FAIL)
    assert wanted(study.trials, sweep()) == [Wanted(0, 1, trial.params)]
    fill(study, sweep())
    for _ in range(2):
        study.tell(take(study), 0.5)
    again = take(study, **{FAILURE: "out of memory"})
    assert again.params == trial.params
    assert not is_finished(study.trials, sweep())
    study.tell(again, state=TrialState.FAIL)
    assert wanted(study.trials, sweep()) == []
    assert is_finished(study.trials, sweep())
    assert [one.job for one in wanted(study.trials, sweep(retries=2))] == [0]


def test_a_job_that_lost_its_worker_has_not_failed_but_is_given_up_in_the_end(study, sweep, monkeypatch):
    monkeypatch.setattr(queue, "MOST_LOST", 3)
    for _ in range(3):
        assert not is_finished(study.trials, sweep(jobs=1, retries=0))
        fill(study, sweep(jobs=1, retries=0))
        assert queue.fail(study, study.trials[take(study).number])
    assert is_finished(study.trials, sweep(jobs=1, retries=0))


def test_of_attempts_added_twice_the_first_counts(study, sweep):
    for _ in range(2):  # two workers saw the same gap
        add(study, Wanted(0, 0, {}))
    assert [trial.number for trial in attempts(study.trials)[0]] == [0]
    study.tell(take(study), 0.9)
    study.tell(take(study), state=TrialState.FAIL)
    assert wanted(study.trials, sweep(jobs=1)) == []


def test_trials_without_a_mark_are_nobodys(study, sweep):
    study.ask()
    assert attempts(study.trials) == {}
    assert len(wanted(study.trials, sweep())) == 3


def test_what_has_ended_is_not_failed(study, sweep):
    fill(study, sweep())
    trial = take(study)
    seen = study.trials[trial.number]
    study.tell(trial, 0.5)
    assert not queue.fail(study, seen)
    assert study.trials[trial.number].state is TrialState.COMPLETE


def test_jobs_are_begun_only_as_far_as_the_budget_goes(study, sweep):
    plan = sweep(jobs=5, job_budget=100, query_budget=250)
    fill(study, plan)
    assert len(study.trials) == 2  # a third could pass 250
    study.tell(take(study, **{QUERIES: 40}), 0.5)
    fill(study, plan)
    assert len(study.trials) == 3  # 40 + 2 x 100
    study.tell(take(study, **{QUERIES: 100}), 0.5)
    failing = take(study, **{QUERIES: 1, FAILURE: "x"})
    study.tell(failing, state=TrialState.FAIL)
    assert [(one.job, one.attempt) for one in wanted(study.trials, plan)] == [(2, 1)]  # its own 100, not another's
    fill(study, plan)
    study.tell(take(study, **{QUERIES: 100}), 0.5)
    assert is_finished(study.trials, plan)  # 240 of 250
    assert [one.job for one in wanted(study.trials, sweep(jobs=5, job_budget=100, query_budget=340))] == [3]


def test_a_grid_is_settled_before_it_is_begun(study, sweep):
    plan = sweep(sampler=None, space={"mapping": ["linear", "frequency"], "seed": [0, 1]}, jobs=4)
    assert [dict(one.values) for one in wanted([], plan)] == [
        {"mapping": mapping, "seed": seed} for mapping in ("linear", "frequency") for seed in (0, 1)
    ]


def test_a_worker_is_dead_when_its_mark_stands_still_for_the_grace_time(study, sweep, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: now[0])
    fill(study, sweep())
    alive, dead = take(study, **{BEAT: 1}), take(study)
    watch, found = Watch(10), []
    for second in range(1, 14):
        now[0] = second
        alive.set_user_attr(BEAT, second)
        found.append([trial.number for trial in watch.lost(study.trials)])
    assert found == [[]] * 11 + [[dead.number]] * 2


def test_a_machine_that_slept_takes_nobody_for_dead(study, sweep, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: now[0])
    fill(study, sweep())
    take(study, **{BEAT: 1})
    watch = Watch(10)
    for moment in (1, 3600, 7200, 7201):
        now[0] = moment
        assert watch.lost(study.trials) == []
