"""The account: sums, refusals, and what several processes and sudden deaths do to it."""

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reprogram.errors import ConfigError, QueryBudgetExceeded, RunError
from reprogram.sources.ledger import PURPOSES, Ledger
from tests.integration import postgres_process

FORK = multiprocessing.get_context("fork")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12


def none_but(**counts: int) -> dict[str, int]:
    return dict.fromkeys(PURPOSES, 0) | counts


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    reason = postgres_process.missing()
    if reason is not None:
        pytest.skip(reason)
    with postgres_process.running() as url:
        yield url


@pytest.fixture
def database(server: str) -> str:
    """Address of an empty one."""
    name = f"ledger_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.removesuffix('/postgres')}/{name}"


@pytest.fixture(params=["memory", "file", "server"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str | None:
    if request.param == "server":
        return str(request.getfixturevalue("database"))
    return tmp_path / "ledger.sqlite" if request.param == "file" else None


@pytest.fixture(params=["file", "server"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """What several processes can use."""
    return str(request.getfixturevalue("database")) if request.param == "server" else tmp_path / "ledger.sqlite"


def start(target: Callable[..., None], *arguments: Any) -> Any:
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


def outcomes(processes: list[Any], queue: Any) -> list[Any]:
    """What the processes put into the queue, one each; waited for first, so that one that failed fails the test."""
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    return [queue.get() for _ in processes]


# ------------------------------------------------------------------------------------------------------------- counting


def test_images_are_counted_under_the_innermost_purpose(path: Path | str | None) -> None:
    ledger = Ledger(path, "run")
    ledger.spend(1)
    with ledger.purpose("train"):
        ledger.spend(2)
        with ledger.purpose("validation"):
            assert ledger.current_purpose == "validation"
            ledger.spend(4)
        ledger.spend(8)
        with suppress(KeyError), ledger.purpose("test"):
            raise KeyError
        ledger.spend(16)
    assert ledger.current_purpose == "other"
    assert ledger.spent() == none_but(other=1, train=26, validation=4)
    assert ledger.total() == 31
    assert ledger.free() is None


def test_an_unknown_purpose_is_refused(path: Path | str | None) -> None:
    ledger = Ledger(path, "run")
    with pytest.raises(ConfigError, match=r"expected a purpose of train, .*, other, got 'fun'"), ledger.purpose("fun"):
        pass
    with pytest.raises(ConfigError, match="got 'fun'"):
        ledger.reserve({"test": 1, "fun": 1})
    ledger.budget = 1
    assert ledger.free() == 1


@pytest.mark.parametrize("budget", [-1, 1.5, True, "12"])
def test_a_budget_that_is_no_count_is_refused(budget: Any) -> None:
    with pytest.raises(ConfigError, match=r"access\.query_budget: expected a whole number >= 0 or null"):
        Ledger(None, "run", budget)


def test_the_budget_is_reached_and_not_passed(path: Path | str | None) -> None:
    ledger = Ledger(path, "run", 10)
    ledger.spend(7)
    with pytest.raises(QueryBudgetExceeded, match=r"cannot send 4 images for other: of 10 queries 7 are spent") as info:
        ledger.spend(4)
    assert (info.value.used, info.value.budget) == (7, 10)
    assert ledger.total() == 7
    assert ledger.free() == 3
    ledger.spend(3)
    ledger.spend(0)
    assert ledger.free() == 0
    with pytest.raises(QueryBudgetExceeded):
        ledger.spend(1)
    with pytest.raises(QueryBudgetExceeded):
        Ledger(None, "run", 0).spend(1)


# --------------------------------------------------------------------------------------------------------- reservations


def test_a_reservation_is_used_up_by_its_own_purpose_only(path: Path | str | None) -> None:
    ledger = Ledger(path, "run", 100)
    ledger.reserve({"test": 30, "validation": 20})
    assert ledger.free() == 50
    with ledger.purpose("train"):
        ledger.spend(50)
        with pytest.raises(QueryBudgetExceeded, match=r"50 are spent and 50 reserved for other uses"):
            ledger.spend(1)
    with ledger.purpose("test"):
        ledger.spend(10)
        with pytest.raises(QueryBudgetExceeded, match=r"cannot send 21 .* 60 are spent and 20 reserved"):
            ledger.spend(21)  # 20 of its own and one that is not free
        ledger.spend(20)
    assert ledger.free() == 0
    ledger.release()
    assert ledger.free() == 20
    assert ledger.spent() == none_but(train=50, test=30)


def test_what_a_reservation_does_not_cover_comes_from_what_is_free(path: Path | str | None) -> None:
    ledger = Ledger(path, "run", 100)
    ledger.reserve({"test": 30, "baseline": 60})
    with ledger.purpose("test"):
        ledger.spend(35)
    assert ledger.free() == 5
    with ledger.purpose("baseline"):
        ledger.spend(60)
    assert ledger.free() == 5


def test_reservations_are_set_together_or_not_at_all(path: Path | str | None) -> None:
    ledger = Ledger(path, "run", 100)
    ledger.reserve({"test": 30, "validation": 20})
    with pytest.raises(QueryBudgetExceeded, match=r"cannot reserve 10 for test, 71 for mapping: of 100 .* 20 reserved"):
        ledger.reserve({"test": 10, "mapping": 71})
    assert ledger.free() == 50
    ledger.reserve({"test": 10, "mapping": 70})  # sets, does not add
    assert ledger.free() == 0


def test_training_is_held_step_by_step(path: Path | str | None) -> None:
    ledger = Ledger(path, "run", 100)
    ledger.reserve({"test": 40})
    with ledger.purpose("train"):
        assert ledger.hold(50)
        ledger.spend(50)
        assert not ledger.hold(11)
        assert ledger.free() == 10
        assert ledger.hold(10)
        assert not ledger.hold(11)
        assert ledger.free() == 0  # the ten are still held
        ledger.spend(10)
    assert ledger.spent()["train"] == 60


def test_runs_share_the_budget_and_not_the_rows(shared: Path | str) -> None:
    one, other = (Ledger(shared, name, 100) for name in ("one", "other"))
    one.reserve({"test": 40})
    other.reserve({"test": 10})
    with other.purpose("test"), pytest.raises(QueryBudgetExceeded):
        other.spend(61)
    other.spend(50)
    assert one.spent() == none_but()
    assert one.total() == other.total() == 50
    assert one.free() == other.free() == 0
    one.release()
    assert other.free() == 40


def test_a_reservation_does_not_take_a_run_past_its_own_smaller_budget(shared: Path | str) -> None:
    small, large = Ledger(shared, "small", 100), Ledger(shared, "large", 1000)
    small.reserve({"test": 80})
    large.spend(90)
    assert small.free() == 0
    with small.purpose("test"):
        small.spend(10)
        with pytest.raises(QueryBudgetExceeded):
            small.spend(1)
    assert small.total() == 100


# -------------------------------------------------------------------------------------------------------------- answers


def test_answers_come_back_bit_by_bit_and_settle(path: Path | str | None) -> None:
    ledger = Ledger(path, "run")
    answers = {index.to_bytes(4): random.randbytes(24) for index in range(1200)}  # more than one chunk
    ledger.spend(1200)
    ledger.keep(answers)
    asked = [(9999).to_bytes(4), *answers, *answers]
    found = ledger.look_up(asked)
    assert found == answers
    assert ledger.look_up([]) == {}
    ledger.begin()
    assert ledger.uncertain == 0


def test_the_first_answer_stays(path: Path | str | None) -> None:
    ledger = Ledger(path, "run")
    ledger.keep({b"key": b"first"})
    ledger.keep({b"key": b"second", b"new": b"second"})
    assert ledger.look_up([b"key", b"new"]) == {b"key": b"first", b"new": b"second"}


def test_requests_land_one_by_one(path: Path | str | None) -> None:
    ledger = Ledger(path, "run")
    ledger.spend(4)
    ledger.spend(4)
    ledger.keep({b"key": b"said"}, settled=4)
    ledger.begin()  # the process of the other four died
    assert ledger.uncertain == 4
    assert ledger.retried == 0


@pytest.mark.parametrize(("charged", "total", "uncertain"), [(True, 14, 0), (None, 14, 4), (False, 10, 0)])
def test_a_failed_request_is_counted_as_far_as_it_may_be_charged(
    charged: bool | None, total: int, uncertain: int, path: Path | str | None
) -> None:
    ledger = Ledger(path, "run", 20)
    with ledger.purpose("test"):
        ledger.reserve({"test": 12})
        covered = ledger.spend(4)
        ledger.fail(4, charged, covered)
        left = 12 if charged is False else 8
        assert ledger.free() == 20 - left - (0 if charged is False else 4)
        ledger.spend(10)
        ledger.keep({})
    ledger.begin()
    assert ledger.total() == ledger.spent()["test"] == total
    assert ledger.uncertain == uncertain
    assert ledger.retried == ledger.lost()["test"] == total - 10


def test_all_is_found_again_by_the_next_process(shared: Path | str) -> None:
    first = Ledger(shared, "run", 10)
    with first.purpose("test"):
        first.spend(3)
    first.keep({b"key": b"said"})
    first.reserve({"validation": 5})
    again = Ledger(shared, "run", 10)
    assert again.free() == 2
    again.begin()
    assert again.free() == 7
    assert again.spent() == none_but(test=3)
    assert list(again.look_up([b"key"])) == [b"key"]


def test_a_finished_run_leaves_one_file_that_can_be_used_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "run")
    ledger.spend(3)
    ledger.release()
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]
    assert ledger.total() == 3


# ------------------------------------------------------------------------------------------------- processes and deaths


def test_images_in_flight_become_uncertain_when_the_run_begins_again(path: Path | str | None) -> None:
    ledger = Ledger(path, "run")
    ledger.spend(5)
    assert ledger.uncertain == 0  # they may still be answered
    ledger.keep({})
    ledger.spend(3)
    ledger.spend(4)
    ledger.begin()
    assert ledger.uncertain == 7
    assert ledger.total() == 12


def test_another_runs_images_in_flight_are_its_own_affair(shared: Path | str) -> None:
    one, other = (Ledger(shared, name) for name in ("one", "other"))
    one.spend(3)
    other.reserve({"test": 1})
    other.spend(4)
    one.begin()
    assert (one.uncertain, other.uncertain) == (3, 0)
    other.keep({})
    other.begin()
    assert (one.uncertain, other.uncertain) == (3, 0)


def test_a_neighbour_that_is_making_the_file_is_waited_for(tmp_path: Path) -> None:
    neighbour = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    neighbour.execute("BEGIN IMMEDIATE")  # SQLite's own timeout does not cover this
    timer = threading.Timer(0.05, neighbour.close)
    timer.start()
    ledger = Ledger(tmp_path / "ledger.sqlite", "run")
    ledger.spend(3)
    timer.join()
    assert ledger.total() == 3


def spend_all(file: Path, run: str, gate: Any, sizes: list[int], counts: Any) -> None:
    ledger, spent = Ledger(file, run, 500), 0
    gate.wait()  # all open the file, which is not there yet, at once
    with ledger.purpose("train"):
        for size in sizes * 1000:
            try:
                ledger.spend(size)
            except QueryBudgetExceeded:
                if size == 1:
                    break
                continue
            spent += size
            ledger.keep({})
    counts.put((run, spent))


@forks
@pytest.mark.parametrize("attempt", range(3))
def test_processes_together_spend_the_budget_to_the_last_query_and_no_more(shared: Path | str, attempt: int) -> None:
    gate, counts = FORK.Barrier(4, timeout=30), FORK.SimpleQueue()
    jobs = [
        start(spend_all, shared, f"run {index % 2}", gate, [index + 2, 7, 1], counts)  # two runs of two processes
        for index in range(4)
    ]
    found = outcomes(jobs, counts)
    assert sum(spent for _, spent in found) == 500
    for run in ("run 0", "run 1"):
        ledger = Ledger(shared, run, 500)
        assert ledger.spent() == none_but(train=sum(spent for name, spent in found if name == run))
        assert ledger.total() == 500
        ledger.begin()
        assert ledger.uncertain == 0


@forks
def test_reservations_hold_against_other_processes(shared: Path | str) -> None:
    counts = FORK.SimpleQueue()
    mine = Ledger(shared, "mine", 500)
    mine.reserve({"test": 123})
    gate = FORK.Barrier(3, timeout=30)
    jobs = [start(spend_all, shared, f"run {index}", gate, [3, 1], counts) for index in range(3)]
    assert sum(spent for _, spent in outcomes(jobs, counts)) == 377
    with mine.purpose("test"):
        mine.spend(123)
    assert mine.total() == 500


def send_for_ever(shared: Path | str, asked: Any) -> None:
    ledger = Ledger(shared, "run", 100_000)
    while True:
        ledger.spend(3)
        asked.value += 3  # the oracle's own count
        ledger.keep({})


@forks
@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011])
def test_a_killed_process_leaves_a_sound_account(shared: Path | str, delay: float) -> None:
    asked = FORK.Value("q", 0, lock=False)
    ledger = Ledger(shared, "run", 100_000)
    ledger.total()  # opened before the fork: the child must not use this connection
    victim = start(send_for_ever, shared, asked)
    while not asked.value:
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    ledger.begin()
    assert ledger.uncertain in (0, 3)
    assert asked.value <= ledger.total() <= asked.value + ledger.uncertain
    ledger.budget = ledger.total() + 10
    ledger.spend(10)
    with pytest.raises(QueryBudgetExceeded):
        ledger.spend(1)


def die_in_flight(shared: Path | str) -> None:
    Ledger(shared, "run", 100).spend(40)
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_transaction(shared: Path | str) -> None:
    with Ledger(shared, "run")._file.transaction() as connection:
        connection.execute("UPDATE queries SET spent = 99")
        os.kill(os.getpid(), signal.SIGKILL)


@forks
def test_what_a_dead_process_sent_stays_counted_and_what_it_did_not_commit_does_not(shared: Path | str) -> None:
    for death in (die_in_flight, die_in_a_transaction):
        start(death, shared).join(30)
    ledger = Ledger(shared, "run", 100)
    ledger.begin()
    assert (ledger.total(), ledger.uncertain, ledger.free()) == (40, 40, 60)
    ledger.spend(60)
    with pytest.raises(QueryBudgetExceeded):
        ledger.spend(1)


def use_inherited(ledger: Ledger, outcome: Any) -> None:
    try:
        ledger.spend(1)
        outcome.put("spent")
    except RunError as error:
        outcome.put(str(error))


@forks
def test_a_forked_process_has_its_own_connection_and_its_own_images_in_flight(shared: Path | str) -> None:
    ledger, outcome = Ledger(shared, "run", 10), FORK.SimpleQueue()
    ledger.spend(4)
    child = start(use_inherited, ledger, outcome)
    assert outcomes([child], outcome) == ["spent"]
    ledger.keep({})  # its own four, not the child's one
    assert ledger.total() == 5
    ledger.begin()
    assert ledger.uncertain == 1


@forks
def test_a_ledger_in_memory_does_not_start_again_at_zero_in_a_fork(tmp_path: Path) -> None:
    ledger, outcome = Ledger(None, "run", 10), FORK.SimpleQueue()
    ledger.spend(10)
    child = start(use_inherited, ledger, outcome)
    assert "in memory is for one process" in outcomes([child], outcome)[0]


# ---------------------------------------------------------------------------------------------------------- wrong files


def damaged(folder: Path) -> Path:
    (folder / "damaged.sqlite").write_bytes(b"no database at all, but long enough to be one" * 100)
    return folder / "damaged.sqlite"


def cut(folder: Path) -> Path:
    ledger = Ledger(folder / "cut.sqlite", "run")
    ledger.keep({index.to_bytes(4): bytes(4000) for index in range(100)})
    ledger.release()
    (folder / "cut.sqlite").write_bytes((folder / "cut.sqlite").read_bytes()[:4096] + b"\xff" * 8192)
    return folder / "cut.sqlite"


def foreign(folder: Path) -> Path:
    with sqlite3.connect(folder / "foreign.sqlite") as connection:
        connection.execute("CREATE TABLE queries (question TEXT)")
    connection.close()
    return folder / "foreign.sqlite"


@pytest.mark.parametrize(
    "make", [damaged, cut, foreign, lambda folder: folder, lambda folder: cut(folder) / "ledger.sqlite"]
)
def test_a_file_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(tmp_path)
    ledger = Ledger(file, "run", 10)
    with pytest.raises(RunError, match=r"access\.ledger: expected a writable SQLite .* at .*; .* access\.ledger=FILE"):
        ledger.spend(1)


# -------------------------------------------------------------------------------------------------------- wrong servers


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    addresses = ("me:secret@host/base", "me:secret/more@host/base", "me@host/base?password=secret")
    for url in (f"postgresql://{address}" for address in addresses):
        with pytest.raises(ConfigError, match="expected no password in the address; set PGPASSWORD") as found:
            Ledger(url, "run")
        assert "secret" not in str(found.value)


def test_a_server_that_is_not_there_or_refuses_is_named_with_the_remedy(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match=r"(?s)access\.ledger: expected a PostgreSQL database .*:1/base.*see to server"):
        Ledger("postgresql://me@127.0.0.1:1/base", "run").spend(1)
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(RunError, match=r"(?s)password authentication failed.*PGPASSWORD") as found:
        Ledger(server, "run").spend(1)
    assert "wrong" not in str(found.value)


def test_a_connection_that_broke_is_made_again(database: str) -> None:
    ledger = Ledger(database, "run")
    ledger.spend(3)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(RunError, match="give the same command again"):
        ledger.spend(1)
    ledger.spend(2)
    assert ledger.total() == 5
