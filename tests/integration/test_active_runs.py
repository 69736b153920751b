"""Active learning from the config to its records, on the embedded source and scikit-learn's digits."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from reprogram import artefact
from reprogram.active.active_learning import learn
from reprogram.commands.launch import config_folder
from reprogram.errors import ConfigError, RunError
from reprogram.records import RunDirectory
from reprogram.sources.ledger import Ledger

pytest.importorskip("skactiveml")

QUICK = (
    "data=digits", "protocol.max_train=60", "protocol.max_val=30", "protocol.max_test=30", "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false", "evaluation.num_resamples=20", "evaluation.baselines=[]", "logger=none",
    "active.fractions=[0.3,0.5]",
)  # fmt: skip
BLACK_BOX = ("recipe=black_box", "access.queries_per_second=1000", "data.batch_size=15", "program.resolution=4")

Active = Callable[..., DictConfig]


@pytest.fixture
def active(tmp_path: Path) -> Active:
    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("active", [*QUICK, f"run_dir={tmp_path / 'active'}", *overrides])

    return make


def test_rounds_are_runs_of_what_is_labelled(active: Active, tmp_path: Path) -> None:
    outcome = learn(active("active=margin"))
    assert outcome is not None
    assert [record["labels"] for record in outcome.records] == [18, 30]
    for record in outcome.records:
        run = RunDirectory(tmp_path / "active" / f"round_{record['round']}" / "run")
        assert run.read_metrics()["data"]["sizes"] == {"train": record["labels"], "val": 30, "test": 30}
        assert run.read_metrics()["test"] == record["test"]
    assert outcome.run == tmp_path / "active" / "round_2" / "run"
    assert artefact.load(outcome.run).task.num_classes == 10
    with (outcome.folder / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["labels"]) for row in rows] == [18, 30]
    assert float(rows[1]["test_accuracy"]) == outcome.records[1]["test"]["accuracy"]["value"]
    assert (outcome.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert learn(active("active=margin")) == outcome  # nothing is left to do
    with pytest.raises(RunError, match="holds rounds with another active"):
        learn(active("active=entropy"))


def test_a_warm_start_begins_where_the_round_before_ended(active: Active, tmp_path: Path) -> None:
    learn(active("active=random", "active.warm_start=true"))
    second = RunDirectory(tmp_path / "active" / "round_2" / "run").read_config()
    assert second["start_from"] == str(tmp_path / "active" / "round_1" / "run")
    assert RunDirectory(tmp_path / "active" / "round_1" / "run").read_config()["start_from"] is None


def test_propagated_labels_weigh_less_and_are_told_apart(active: Active, tmp_path: Path) -> None:
    outcome = learn(active("active=propagation", "active.strategy.sees=features"))
    assert outcome is not None
    for record in outcome.records:
        assert record["propagated"]["count"] > 0
        assert 0 < record["propagated"]["accuracy"] < 1
        metrics = RunDirectory(tmp_path / "active" / f"round_{record['round']}" / "run").read_metrics()
        assert metrics["data"]["sizes"]["train"] == record["labels"] + record["propagated"]["count"]


def test_the_program_can_wait_for_the_last_label_in_a_white_box_too(active: Active, tmp_path: Path) -> None:
    outcome = learn(active("active=margin", "active.train=last"))
    assert outcome is not None
    assert [(record["labels"], record["test"], record["queries"]) for record in outcome.records] == [
        (18, None, None),
        (30, None, None),
    ]
    assert outcome.run == tmp_path / "active" / "round_2" / "run"
    metrics = RunDirectory(outcome.run).read_metrics()
    assert metrics["data"]["sizes"]["train"] == 30
    alone = metrics["history"][0]["val/accuracy"]  # the last round's mapping, fitted to the very same answers
    assert alone == pytest.approx(outcome.records[1]["val"]["accuracy"]["value"])


def test_behind_a_black_box_the_pool_is_paid_once(active: Active, tmp_path: Path) -> None:
    overrides = (*BLACK_BOX, "active=margin", "access.query_budget=600")
    assert learn(active(*overrides, "access.dry_run=true")) is None
    assert not (tmp_path / "active").exists()
    outcome = learn(active(*overrides))
    assert outcome is not None
    folder = tmp_path / "active"
    assert [record["queries"] for record in outcome.records] == [90, 90]  # 60 of the pool and 30 of validation, once
    assert [record["test"] for record in outcome.records] == [None, None]
    account = Ledger(folder / "ledger.sqlite", str((folder / "round_2" / "run").resolve()))
    spent = account.spent()
    metrics = RunDirectory(folder / "round_2" / "run").read_metrics()
    assert metrics["history"][0]["queries"] == 0  # the first fit was paid for with the pool
    assert metrics["queries"]["total"] == sum(spent.values())
    assert account.total() == 90 + sum(spent.values()) <= 600
    assert learn(active(*overrides)) == outcome
    assert account.total() == 90 + sum(spent.values())


def test_the_smallest_budget_that_the_plan_takes_pays_for_the_end(active: Active, tmp_path: Path) -> None:
    """60 for the pool (30 of them the first fit), five validations of 30, 30 for test, and a step of 30."""
    overrides = (*BLACK_BOX, "active=random", "trainer.max_epochs=-1")
    with pytest.raises(ConfigError, match=r"expected at least 240 .* all without the 30 queries"):
        learn(active(*overrides, "access.query_budget=269", "access.dry_run=true"))
    outcome = learn(active(*overrides, "access.query_budget=270"))
    assert outcome is not None
    assert outcome.run is not None
    assert RunDirectory(outcome.run).read_metrics()["queries"]["train"] == 30
    assert learn(active(*overrides, "access.query_budget=400")) == outcome  # a larger budget is no other run
    more = learn(active(*overrides, "access.query_budget=900", "active.fractions=[0.3,0.5,0.7]"))
    assert more is not None
    assert more.run == tmp_path / "active" / "round_3" / "run"
    spent = Ledger(tmp_path / "active" / "ledger.sqlite", "").total()
    assert spent <= 900
    (tmp_path / "active").rename(tmp_path / "moved")
    moved = learn(
        active(*overrides, "access.query_budget=900", "active.fractions=[0.3,0.5,0.7]", f"run_dir={tmp_path / 'moved'}")
    )
    assert moved is not None
    assert moved.run == tmp_path / "moved" / "round_3" / "run"
    assert Ledger(tmp_path / "moved" / "ledger.sqlite", "").total() == spent


def test_the_losses_that_steps_start_from_are_paid_for(active: Active, tmp_path: Path) -> None:
    one_sided = ("estimator=one_sided", "estimator.num_directions=1", "estimator.smoothing=1")
    outcome = learn(active(*BLACK_BOX, *one_sided, "active=random", "access.query_budget=600"))
    assert outcome is not None
    asked = RunDirectory(tmp_path / "active" / "round_2" / "run").read_metrics()["queries"]["train"]
    assert asked == 2 * 15  # two steps of 15: the other half, at the program of the moment, the fits have asked for


def test_labels_and_queries_are_in_one_plan(active: Active, caplog) -> None:
    caplog.set_level("INFO")
    prices = ("access.price_per_1000=10", "active.price_per_label=2")
    learn(active(*BLACK_BOX, *prices, "access.query_budget=600", "access.dry_run=true"))
    text = caplog.text
    assert "30 labels, of a pool of 60, in 2 rounds: 18, 30" in text
    assert " queries of 600: 30 for pool alone, " in text
    line = next(line for line in text.splitlines() if "cost " in line)
    assert "60.00 for 30 labels" in line


def test_the_plan_knows_that_labels_are_passed_on(active: Active, tmp_path: Path, caplog) -> None:
    """Then the run at the end is trained on the whole pool, not on what is labelled."""
    caplog.set_level("INFO")
    overrides = (*BLACK_BOX, "active=propagation", "active.fractions=[0.3]")
    learn(active(*overrides, "access.dry_run=true"))
    line = next(line for line in caplog.text.splitlines() if " queries: " in line)
    assert "120 for train" in line  # one epoch of 60, two queries each
    learn(active(*overrides))
    spent = Ledger(tmp_path / "active" / "ledger.sqlite", "").total()
    assert spent <= int(line.split(" queries: ")[0].split()[-1].replace(",", ""))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("active.fractions=[2]",), "active.fractions: expected rising numbers"),
        (("active.strategy.measure=bald",), "active.strategy.measure: expected one of"),
        (("+active.rounds=3",), "active.rounds: no such key"),
        (("resume=runs/x",), "resume: is of one run"),
        (("protocol.labels=x.csv",), "protocol.labels: each round has its own"),
        ((*BLACK_BOX, "active.train=each"), "active.train: expected last behind a black box"),
        (("active.train=last", "active.warm_start=true"), "active.warm_start: expected false where the program"),
        ((*BLACK_BOX, "access.store=off"), "access.store: expected on, so that the pool is paid for once"),
        ((*BLACK_BOX, "access.query_budget=20"), "access.query_budget: expected more than 30"),
        ((*BLACK_BOX, "mapping=assignment"), "mapping: expected one that is fitted"),
    ],
)
def test_wrong_values_are_one_message_and_make_nothing(active: Active, tmp_path: Path, overrides, message) -> None:
    with pytest.raises((ConfigError, RunError), match=message.replace("(", r"\(")):
        learn(active(*overrides))
    assert not (tmp_path / "active" / "round_1").exists()


def test_an_exact_copy_of_the_rounds_goes_on_elsewhere(active: Active, tmp_path: Path) -> None:
    learn(active("active=margin", "active.fractions=[0.3]"))
    (tmp_path / "active").rename(tmp_path / "moved")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("active", [*QUICK, f"run_dir={tmp_path / 'moved'}", "active=margin"])
    outcome = learn(cfg)
    assert outcome is not None
    labels = json.loads((tmp_path / "moved" / "round_1" / "round.json").read_text())["labels"]
    assert [record["labels"] for record in outcome.records] == [labels, 30]
