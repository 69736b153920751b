"""A SIGTERM ends a process at once, or where it says."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from reprogram import exit_codes, preemption, runs
from reprogram.errors import QueryBudgetExceeded
from reprogram.preemption import Preempted


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preemption, "_request", preemption._Request())
    before = signal.getsignal(signal.SIGTERM)
    preemption.listen()
    yield
    signal.signal(signal.SIGTERM, before)


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_at_once_where_nothing_is_waited_for() -> None:
    with pytest.raises(Preempted) as ended:
        ask()
    assert ended.value.code == exit_codes.PREEMPTED == 75
    assert not isinstance(ended.value, Exception)  # nothing that catches failures stops it
    ask()  # a second one does not disturb the end


def test_a_step_comes_to_its_end() -> None:
    preemption.wait()
    assert not preemption.received()
    ask()
    assert preemption.received()
    with pytest.raises(Preempted):
        preemption.now()


def test_after_the_last_step_nothing_is_waited_for() -> None:
    preemption.wait()
    preemption.now()
    with pytest.raises(Preempted):
        ask()


def test_processes_that_were_started_are_told_once() -> None:
    told: list[int] = []
    preemption.pass_on(told.append)
    preemption.wait()
    ask()
    ask()
    assert told == [signal.SIGTERM]


@pytest.mark.parametrize("during", [True, False])
def test_a_step_that_the_budget_ends_is_waited_for_no_more(during: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **kwargs: Any) -> None:
        preemption.wait()
        if during:
            ask()
        raise QueryBudgetExceeded("nothing left", used=9, budget=9)

    strategy = SimpleNamespace(root_device="cpu")
    trainer: Any = SimpleNamespace(fit=fit, world_size=1, global_rank=0, strategy=strategy)
    cfg = {"data": {"batch_size": 2}, "seed": 0}
    data: Any = SimpleNamespace(splits={"train": [], "val": []})
    monkeypatch.setattr(runs, "BatchLoader", lambda *args: None)
    module: Any = None
    with pytest.raises(Preempted):  # noqa: PT012 - at the latest where a SIGTERM comes afterwards
        runs._fit(trainer, module, cfg, data, None)
        ask()
