from pathlib import Path

import pytest

from reprogram.errors import ConfigError, RunError
from reprogram.sweeps.plan import plan, read_sweep
from reprogram.sweeps.samplers import choose, rehearse, sampler

BLOCK = {
    "objectives": ["score"], "jobs": 4, "seed": 0, "workers": 2, "devices": None, "retries": 2, "grace": 60,
    "name": None, "folder": None, "storage": None, "query_budget": None, "dry_run": False, "pruner": None,
    "sampler": {"_target_": "optuna.samplers.RandomSampler"}, "space": {"optimizer.lr": {"low": 0.01, "high": 1.0}},
}  # fmt: skip
WHITE = {"access": {"_target_": None}, "callbacks": {"monitor": "val/accuracy", "mode": "max"}}
BLACK = {
    "access": {"_target_": "x.BlackBox", "query_budget": 1000, "ledger": None, "price_per_1000": 2.0},
    "callbacks": {"monitor": "val/nll", "mode": "min"},
}


def made(run=WHITE, overrides=("data=digits",), **changes):
    return plan({**BLOCK, **changes}, overrides, run)[0]


def test_the_same_command_is_the_same_sweep_and_another_is_another():
    name = made().name
    assert made().folder == f"runs/{name}"
    assert made(jobs=99, workers=1, retries=0, grace=5, storage="sqlite:///x").name == name
    others = [
        made(overrides=("data=squares",)),
        made(seed=1),
        made(space={"optimizer.lr": {"low": 0.01, "high": 2.0}}),
        made(sampler=None, space={"seed": [0, 1, 2, 3]}),
        made(pruner={"_target_": "optuna.pruners.SuccessiveHalvingPruner"}),
    ]
    assert len({name, *(other.name for other in others)}) == 6


def test_a_run_directory_is_a_function_of_job_and_values():
    sweep = made(name="s")
    folder = sweep.run_dir(3, {"optimizer.lr": 0.5})
    assert folder.parent == Path("runs/s")
    assert folder.name.startswith("003_")
    assert folder == sweep.run_dir(3, {"optimizer.lr": 0.5}) != sweep.run_dir(3, {"optimizer.lr": 0.25})
    assert sweep.job_overrides({"optimizer.lr": 0.5}) == ["data=digits", "optimizer.lr=0.5"]


def test_a_sweep_is_read_back_from_where_its_folder_lies_now(tmp_path):
    sweep = made(folder=str(tmp_path / "a"), name="s", run=BLACK)
    sweep.save()
    (tmp_path / "a").rename(tmp_path / "b")
    found = read_sweep(tmp_path / "b")
    assert found.folder == str(tmp_path / "b")
    assert found.definition() == sweep.definition()
    (tmp_path / "b/sweep.json").write_text('{"name": "s"}')
    with pytest.raises(RunError, match="made by another version"):
        read_sweep(tmp_path / "b")
    with pytest.raises(RunError, match="expected the folder of a sweep"):
        read_sweep(tmp_path)


def test_a_grid_has_as_many_jobs_as_combinations():
    space = {"mapping": ["linear", "frequency"], "seed": {"low": 0, "high": 2}}
    assert made(sampler=None, space=space, jobs=None).jobs == 6
    assert made(sampler=None, space=space, jobs=4).jobs == 4
    with pytest.raises(ConfigError, match=r"sweep\.jobs: expected at most 6"):
        made(sampler=None, space=space, jobs=7)
    with pytest.raises(ConfigError, match="got null, which means all of a grid"):
        made(jobs=None)


@pytest.mark.parametrize(
    ("changes", "run", "message"),
    [
        ({"jobs": 0}, WHITE, "sweep.jobs: expected a whole number >= 1, got 0"),
        ({"workers": "many"}, WHITE, "sweep.workers: expected int, got 'many'"),
        ({"grace": 1}, WHITE, "sweep.grace: expected a whole number >= 2, got 1"),
        ({"wrokers": 1}, WHITE, "did you mean sweep.workers?"),
        ({"objectives": ["queries"]}, BLACK, "expected [score] or [score,queries]"),
        ({"objectives": ["score", "queries"]}, WHITE, "set recipe=black_box"),
        ({"query_budget": 5000}, WHITE, "set recipe=black_box"),
        ({"query_budget": 500}, BLACK, "expected at least 1000"),
        ({"query_budget": 5000, "space": {"access.query_budget": [10, 20]}}, BLACK, "the same for all"),
        ({"sampler": "tpe"}, WHITE, "sweep.sampler: expected null or a block with _target_"),
        ({"objectives": ["score", "queries"], "pruner": {"_target_": "x"}}, BLACK, "expected null with two objectives"),
    ],
)
def test_wrong_choices_are_refused(changes, run, message):
    with pytest.raises(ConfigError) as caught:
        made(run=run, **changes)
    assert message in str(caught.value)


def test_a_shared_ledger_has_a_budget_of_its_own():
    shared = {**BLACK, "access": {**BLACK["access"], "ledger": "x.sqlite"}}
    with pytest.raises(ConfigError, match=r"whose own access\.query_budget bounds all jobs"):
        made(run=shared, query_budget=5000)


def test_directions_follow_the_monitor():
    assert made().directions == ["maximize"]
    assert made(run=BLACK, objectives=["queries", "score"]).directions == ["minimize", "minimize"]


@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler", "CmaEsSampler"])
def test_the_values_of_a_job_do_not_depend_on_who_asks(name, sweep):
    import optuna

    plan_ = sweep(sampler={"_target_": f"optuna.samplers.{name}"}, space={"a": {"low": 0.0, "high": 1.0}, "b": [1, 2]})

    def values(jobs):
        found = {}
        for job in jobs:
            study = optuna.create_study()
            study.sampler = sampler(plan_, job)
            found[job] = choose(study.ask(), plan_)
        return found

    first = values([0, 1, 2])
    assert values([2, 0, 1]) == first
    assert len({row["a"] for row in first.values()}) == 3


def test_a_sampler_that_cannot_work_is_refused_before_anything_is_run(sweep):
    two = {"objectives": ["score", "queries"], "job_budget": 10}
    with pytest.raises(ConfigError, match="multi-objective"):
        rehearse(sweep(sampler={"_target_": "optuna.samplers.CmaEsSampler"}, **two))
    with pytest.raises(ConfigError, match=r"sweep\.sampler\.startup: no such key"):
        rehearse(sweep(sampler={"_target_": "optuna.samplers.RandomSampler", "startup": 1}))
    with pytest.raises(ConfigError, match=r"sweep\.pruner: .*min_resource"):
        rehearse(sweep(pruner={"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 0}))
    rehearse(sweep(pruner={"_target_": "optuna.pruners.HyperbandPruner", "max_resource": 9}))
    rehearse(sweep(**two))
