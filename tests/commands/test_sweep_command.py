"""``reprogram-sweep``: its manual page, and what it refuses before anything is run."""

import errno
import json
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from reprogram.commands import sweep

pytest.importorskip("optuna")


@pytest.fixture
def run(run_command):
    return partial(run_command, sweep)


def test_help_reads_as_a_manual_page(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for word in ("NAME", "EXAMPLES", "sweep=asha", "sweep.query_budget", "summary=runs/"):
        assert word in out


def test_a_dry_run_checks_and_makes_nothing(run, tmp_path: Path) -> None:
    code, out, _ = run("data=digits", "sweep=asha", "sweep.jobs=8", "sweep.workers=3", "sweep.dry_run=true")
    assert code == 0
    assert "plan     8 jobs, 3 at a time, over optimizer.lr, scheduler, mapping" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+sweep.space.optimizer.lrr=[1,2]"], "did you mean optimizer.lr"),
        (
            ["+sweep.space.mapping=[linear,frequncy]"],
            "mapping=frequncy: there is no such choice; did you mean frequency?",
        ),
        (["+sweep.space.program.size=[20,abc]"], "with program.size=abc: program.size: expected int"),
        (
            ["+sweep.space.data.batch_size={low: 0.5, high: 8}"],
            "data.batch_size: expected a whole number >= 1, got 0.5",
        ),
        (["hydra.verbose=true"], "hydra.verbose=true: expected none in a sweep"),
        (["+sweep.space.optimizer.lr={low: 3, high: 1}"], "sweep.space.optimizer.lr: expected low <= high, got 3 > 1"),
        ([], "sweep.space: expected at least one key"),
        (
            ["+sweep.space.seed=[0,1]", "sweep.job=3"],
            "sweep.job: there is no such key or group; did you mean sweep.jobs",
        ),
        (["+sweep.space.seed=[0,1]", "sweep=tpee"], "sweep=tpee: there is no such choice; did you mean tpe?"),
        (["+sweep.space.seed=[0,1]", "run_dir=x"], "run_dir: a sweep gives every run a folder of its own"),
        (["+sweep.space.seed=[0,1]", "sweep.storage=postgresql://a:b@h/d"], "expected a URL without a password"),
        (["+sweep.space.seed=[0,1]", "recipe=black_box", "access.dry_run=true"], "set sweep.dry_run=true"),
        (
            ["+sweep.space.seed=[0,1]", "recipe=black_box", "access.ledger='postgres://me:secret@host/db'"],
            "access.ledger: expected a file name, postgresql://user@host/database or null, got postgres://...",
        ),
        (
            ["+sweep.space.seed=[0,1]", "recipe=black_box", "access.ledger='postgresql://me:secret@host/db'"],
            "access.ledger: expected no password in the address",
        ),
        (["summary=nowhere"], "nowhere: expected the folder of a sweep"),
    ],
)
def test_mistakes_get_one_line_and_make_nothing(run, tmp_path: Path, arguments, message) -> None:
    code, _, err = run("data=digits", "sweep/space=none", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert "secret" not in err
    assert not (tmp_path / "runs").exists()


def test_a_multirun_of_sweeps_is_refused(run) -> None:
    code, _, err = run("data=digits", "sweep/space=none", "+sweep.space.seed=[0,1]", "-m")
    assert code == 2
    assert "reprogram-sweep is a sweep by itself" in err


@pytest.mark.parametrize("choice", ["tpe", "asha", "hyperband", "cma_es", "random"])
def test_every_search_works_with_its_space(run, choice) -> None:
    assert run("data=digits", f"sweep={choice}", "sweep.dry_run=true")[0] == 0


def test_a_front_has_the_space_of_a_black_box(run) -> None:
    code, out, _ = run(
        "recipe=black_box", "data=digits", "access.query_budget=20000", "sweep=front", "sweep.dry_run=true"
    )
    assert code == 0
    assert "over optimizer.lr, program.resolution, estimator.num_directions" in out
    assert "at most 480,000 queries" in out


@pytest.fixture
def made(monkeypatch) -> Iterator[list[Path]]:
    """The runs, which take no time."""
    found: list[Path] = []

    def act(command, folder, *rest) -> int:
        found.append(folder)
        folder.mkdir(parents=True)
        scores = {"balanced_accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
        (folder / "metrics.json").write_text(json.dumps({"val": scores, "test": scores, "queries": {"total": 0}}))
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("reprogram.sweeps.job.run", act)
    yield found
    signal.signal(signal.SIGTERM, before)


def test_fewer_jobs_than_there_were_is_no_failure(run, made) -> None:
    line = ("data=digits", "sweep=grid", "+sweep.space.seed=[0,1,2]")
    assert run(*line)[0] == 0
    assert run(*line, "sweep.jobs=1")[0] == 0
    assert len(made) == 3


def test_a_full_disk_gets_one_line(run, made, monkeypatch) -> None:
    def full(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("reprogram.sweeps.plan.Sweep.save", full)
    code, _, err = run("data=digits", "sweep=grid", "+sweep.space.seed=[0,1,2]")
    assert code == 2
    assert "No space left on device" in err
    assert "Traceback" not in err


def test_without_optuna_it_says_what_to_install(run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run("data=digits")
    assert code == 2
    assert "pip install 'reprogram[sweep]'" in err
