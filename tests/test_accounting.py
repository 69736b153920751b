"""From a config to a plan, from a plan to reservations, from a ledger to the record."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from reprogram.accounting import announce_plan, open_account, query_plan, recorded_queries
from reprogram.data.base import SPLITS, Examples, TaskData
from reprogram.errors import QueryBudgetExceeded
from reprogram.launched import processes
from reprogram.mappings.base import RefitSchedule
from reprogram.sources.black_box import BlackBox
from reprogram.sources.embedded import embedded_source
from reprogram.sources.ledger import PURPOSES, Ledger
from reprogram.training.query_plan import QueryPlan, Sizes
from reprogram.types import TaskSpec

ACCESS = {
    "_target_": "reprogram.sources.black_box.BlackBox", "query_budget": 1000, "validations": 5, "prime": None,
    "store": "auto", "price_per_1000": None, "queries_per_second": None, "micro_batch": 4,
}  # fmt: skip
TRAINER = {
    "accumulate_grad_batches": 1, "devices": 1, "num_nodes": 1, "max_epochs": -1, "max_steps": -1,
    "limit_train_batches": None,
}  # fmt: skip
PLAN = QueryPlan(
    amounts={"train": 672, "mapping": 96, "validation": 200, "test": 30, "baseline": 0},
    prime=96,
    refits=False,
    steps=21,
    interval=6,
    budget=1000,
    sizes=Sizes(train=96, val=40, test=30, batch=16, accumulate=1, queries_per_example=2, batches=6),
)


def config(access: dict[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    return {
        "access": ACCESS | (access or {}),
        "data": {"batch_size": 16},
        "trainer": TRAINER | trainer,
        "evaluation": {"baselines": ["majority"]},
        "callbacks": {"confidence": None},
    }


def data(train: int = 96) -> TaskData:
    sizes = dict(zip(SPLITS, (train, 40, 30), strict=True))
    return TaskData(
        TaskSpec("toy", ("a", "b"), (4, 4)),
        {
            name: Examples(
                torch.zeros(size, 3, 4, 4, dtype=torch.uint8),
                torch.arange(size) % 2,
                tuple(f"{name}{row}" for row in range(size)),
            )
            for name, size in sizes.items()
        },
    )


def test_the_plan_of_a_config() -> None:
    assert query_plan(config(), data().splits, 2, RefitSchedule("once")) == PLAN
    assert query_plan({"access": {"_target_": None}}, data().splits, 2, RefitSchedule("once")) is None


def test_what_a_config_changes_in_the_plan() -> None:
    once = RefitSchedule("once")

    def steps(cfg: dict[str, Any], train: int = 96) -> int:
        made = query_plan(cfg, data(train).splits, 2, once)
        assert made is not None
        return made.steps

    assert steps(config(max_epochs=2)) == 12
    assert steps(config(max_steps=8)) == 8
    assert steps(config({"query_budget": None}, max_epochs=3)) == 18
    assert steps(config({"validations": 2})) == 24  # 1000 - 96 - 80 - 30 = 794
    assert steps(config({"store": "off"})) < 20
    assert query_plan(config(accumulate_grad_batches=3), data().splits, 2, once).sizes.step == 96  # type: ignore[union-attr]
    assert query_plan(config(devices=4, num_nodes=8), data().splits, 2, once).sizes.step == 64  # type: ignore[union-attr]
    assert query_plan(config(), data(train=5).splits, 2, once).sizes.step == 10  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"), [(1, 1, 1), (2, 1, 2), (2, 3, 6), ("auto", 1, 1), (-1, 1, 1), ("auto", 2, 2)]
)
def test_processes_of_a_trainer(devices: Any, nodes: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes({"devices": devices, "num_nodes": nodes}) == expected


def test_devices_that_lightning_chooses_are_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes({"devices": -1, "num_nodes": 2}) == 8
    assert processes({"devices": 1, "num_nodes": 1}) == 1


class Source:
    """Was prepared, so it runs here, or not; and remembers what it was asked."""

    spec = embedded_source().spec

    def __init__(self, prepared: bool) -> None:
        self.preparation, self.asked = "prepared" if prepared else None, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += len(images)
        return torch.zeros(len(images), 3)


@pytest.mark.parametrize(
    ("prepared", "per_second", "asked", "timed"),
    [(True, None, 8, True), (True, 50.0, 0, True), (False, None, 0, False), (False, 50.0, 0, True)],
)
def test_the_plan_is_announced_and_only_a_source_that_runs_here_is_timed(
    prepared: bool, per_second: float | None, asked: int, timed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(prepared)
    with caplog.at_level(logging.INFO):
        announce_plan(PLAN, ACCESS | {"queries_per_second": per_second, "price_per_1000": 2.0}, source)  # type: ignore[arg-type]
    assert source.asked == asked
    said = " ".join(caplog.text.split())
    for words in ("train 672", "mapping 96", "total 998 of 1,000", "cost 2.00"):
        assert words in said
    assert ("queries/s" in said) == timed
    if per_second:
        assert "time 20 s at 50 queries/s" in said


def test_an_account_is_opened_with_all_but_the_training_reserved() -> None:
    ledger = Ledger(None, "run", 1000)
    open_account(ledger, PLAN)
    assert ledger.free() == 1000 - 326


def test_a_run_that_is_continued_reserves_what_it_has_no_answer_to(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "run", 1000)
    open_account(ledger, PLAN)
    for purpose, count in (("mapping", 96), ("validation", 50), ("train", 64)):
        with ledger.purpose(purpose):
            ledger.spend(count)
        ledger.keep({})
    with ledger.purpose("validation"):
        ledger.spend(7)  # in flight when the process dies
    again = Ledger(tmp_path / "ledger.sqlite", "run", 1000)
    open_account(again, PLAN)
    assert again.total() == 96 + 57 + 64
    assert again.lost()["validation"] == again.uncertain == 7
    # of validation 150 are still to be asked: 200 planned, 50 answered; and 30 of test
    assert again.free() == 1000 - again.total() - 150 - 30


def test_a_purpose_that_cost_more_than_planned_is_not_reserved_below_zero() -> None:
    ledger = Ledger(None, "run", 1000)
    with ledger.purpose("test"):
        ledger.spend(35)
        ledger.keep({})
    open_account(ledger, PLAN)
    assert ledger.free() == 1000 - 35 - 296


def test_an_account_that_others_have_used_up_is_refused(tmp_path: Path) -> None:
    other, ledger = (Ledger(tmp_path / "ledger.sqlite", name, 1000) for name in ("other", "run"))
    other.spend(1000 - 325)
    with pytest.raises(QueryBudgetExceeded, match="cannot reserve 96 for mapping, 200 for validation, 30 for test"):
        open_account(ledger, PLAN)
    assert ledger.total() == 675


def test_the_record_is_the_ledger_s_or_the_run_s_own_count() -> None:
    source = embedded_source()
    counted = {"train": 5, "mapping": 2}
    assert recorded_queries(counted, source, {"_target_": None}) == {
        "train": 5, "mapping": 2, "total": 7, "uncertain": 0, "retried": 0, "budget": None,
        "cost": None,
    }  # fmt: skip
    ledger = Ledger(None, "run", 1000)
    with ledger.purpose("train"):
        ledger.spend(9)
    ledger.begin()  # the nine were in flight
    assert recorded_queries(counted, BlackBox(source, ledger), ACCESS | {"price_per_1000": 4.0}) == {
        **dict.fromkeys(PURPOSES, 0), "train": 9, "total": 9, "uncertain": 9, "retried": 0, "budget": 1000,
        "cost": 0.036,
    }  # fmt: skip


def test_a_continued_run_gives_up_its_baselines_first_then_validations_but_never_the_test() -> None:
    plan = dataclasses.replace(PLAN, amounts=PLAN.amounts | {"baseline": 40})
    planned = plan.amounts
    needed = planned["test"] + planned["validation"] + planned["mapping"]
    for budget, kept in (
        (1 + needed + planned["baseline"], planned["baseline"] + needed),
        (1 + needed, needed),
        (1 + planned["test"] + planned["validation"], planned["test"] + planned["validation"]),
        (1 + planned["test"], planned["test"]),
    ):
        ledger = Ledger(None, "run", budget)
        with ledger.purpose("train"):
            ledger.spend(1)
        open_account(ledger, plan)
        assert ledger.free() == budget - 1 - kept
    ledger = Ledger(None, "run", planned["test"])
    with ledger.purpose("train"):
        ledger.spend(1)
    with pytest.raises(QueryBudgetExceeded, match="test"):
        open_account(ledger, plan)
