import json
from pathlib import Path

import pytest

from reprogram.errors import ConfigError, RunError
from reprogram.sweeps.queue import add, wanted
from reprogram.sweeps.storage import _storage, check_url, kept_sweep, load_study, open_study


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_workers_share_a_study_and_its_definition(kind, sweep, tmp_path: Path):
    plan = sweep(storage=None if kind == "journal" else f"sqlite:///{tmp_path}/x.db")
    first, second = open_study(plan), open_study(plan)
    for attempt in wanted(first.trials, plan):
        add(first, attempt)
    assert len(second.trials) == 3
    assert {second.ask().number, first.ask().number} == {0, 1}
    assert kept_sweep(load_study(Path(plan.folder), plan.storage, "s")) == plan
    assert (Path(plan.folder) / "journal.log").is_file() == (kind == "journal")


def test_a_sweep_goes_on_with_more_jobs_but_not_with_another_definition(sweep):
    open_study(sweep())
    assert kept_sweep(open_study(sweep(jobs=9, workers=4))).jobs == 9
    with pytest.raises(
        ConfigError, match=r"another definition \(differing: overrides, seed\); choose another sweep.name"
    ):
        open_study(sweep(seed=1, overrides=["data=squares"]))


def test_what_is_not_there_is_said(sweep, tmp_path: Path):
    with pytest.raises(RunError, match=r"holds no journal\.log"):
        load_study(tmp_path, None, "s")
    with pytest.raises(RunError, match="there is no such study"):
        load_study(tmp_path, f"sqlite:///{tmp_path}/y.db", "s")
    import optuna

    with pytest.raises(RunError, match="not a study of reprogram-sweep"):
        kept_sweep(optuna.create_study())


def test_a_line_that_was_cut_short_is_cut_off_before_the_next(sweep):
    plan = sweep()
    journal = Path(plan.folder) / "journal.log"
    open_study(plan)
    with journal.open("a") as file:
        file.write('{"op_code":5,"wor')  # a full disk
    again = open_study(plan)
    for attempt in wanted(again.trials, plan):
        add(again, attempt)
    assert len(open_study(plan).trials) == 3
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_the_lock_of_a_worker_that_died_can_be_seen_and_so_be_broken(sweep, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = _storage(None, Path("runs/s"))
    lock = storage._backend._lock
    lock.acquire()
    assert Path("runs/s/journal.log.lock").exists()  # a link, of which Optuna asks the age
    lock.release()


@pytest.mark.parametrize(
    "url", ["postgresql://[host/db", "postgresql://me@host:port/db", "sqlite://", "sqlite:///:memory:"]
)
def test_addresses_that_name_nothing_are_refused(url):
    with pytest.raises(ConfigError, match=r"sweep\.storage: expected "):
        check_url(url)


@pytest.mark.parametrize("url", ["postgresql://me:secret@host/db", "postgresql://me@host/db?password=secret"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert "PGPASSWORD" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_addresses():
    assert check_url("postgresql://me@host:5433/db") == "postgresql+psycopg://me@host:5433/db"
    assert check_url("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    with pytest.raises(ConfigError, match="expected null, sqlite:///FILE or postgresql://"):
        check_url("mysql://host/db")


def test_a_database_that_does_not_answer_is_named(sweep):
    with pytest.raises(
        ConfigError, match=r"sweep\.storage: postgresql://me@127\.0\.0\.1:9/db cannot be used: .*refused"
    ):
        open_study(sweep(storage="postgresql://me@127.0.0.1:9/db"))


def test_no_secret_is_in_what_is_kept(sweep, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "never-this")
    plan = sweep()
    plan.save()
    assert "never-this" not in (Path(plan.folder) / "sweep.json").read_text()
    assert json.loads((Path(plan.folder) / "sweep.json").read_text())["name"] == "s"
