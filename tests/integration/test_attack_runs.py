"""A finished run is attacked: what is written, what is counted, what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from reprogram.attacks.robustness import attack
from reprogram.commands.launch import config_folder
from reprogram.errors import ConfigError, DataError, QueryBudgetExceeded, RunError
from reprogram.runs import train
from reprogram.sources.embedded import embedded_source
from reprogram.sources.ledger import LEDGER_FILE, OWN_RUN, Ledger
from reprogram.sources.network import NetworkSource

SMALL = (
    *("data=digits", "trainer.max_epochs=3", "protocol.max_train=200", "protocol.max_val=40", "protocol.max_test=40"),
    *("trainer.enable_progress_bar=false", "evaluation.num_resamples=20", "evaluation.baselines=[]", "logger=none"),
    "source.prepare=false",  # made at once
)
BLACK = ("access=black_box", "estimator=two_sided", "trainer.max_epochs=1", "protocol.max_train=64")


def composed(config: str, *overrides: str) -> Any:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(config, list(overrides))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A white-box run and a black-box run, both short."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("white", ()), ("black", BLACK)):
        train(composed("train", *SMALL, *more, f"run_dir={folder / name}"))
    return {name: folder / name for name in ("white", "black")}


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that reach the network, batch by batch."""
    counts: list[int] = []
    original = NetworkSource.forward

    def counting(self: NetworkSource, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return original(self, images)

    monkeypatch.setattr(NetworkSource, "forward", counting)
    return counts


@pytest.fixture
def attacked(runs: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def command(run: str, *overrides: str) -> dict[str, Any]:
        base = (f"run={runs[run]}", "max_examples=8", "num_resamples=50", f"output={tmp_path / 'out'}", "batch_size=8")
        return attack(composed("attack", *base, *overrides))

    return command


@pytest.mark.parametrize("target", ["classifier", "source"])
def test_a_gradient_attack_leaves_its_records_and_pictures(
    attacked: Callable[..., dict[str, Any]], runs: dict[str, Path], tmp_path: Path, target: str
) -> None:
    found = attacked("white", "attack=pgd", f"target={target}", "attack.strengths=[0.01,0.3]", "attack.steps=4")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {**record, "output": str(tmp_path / "out")} == found
    assert record["attack"] == {
        "name": "pgd", "strengths": [0.01, 0.3], "steps": 4, "step_size": None, "random_starts": 1,
    }  # fmt: skip
    assert (record["task"], record["access"], record["target"]) == ("digits", "white_box", target)
    assert (record["examples"], record["queries"], record["median_queries"]) == (8, None, None)
    curve = record["curve"]
    assert [row["strength"] for row in curve] == [0, 0.01, 0.3]
    values = [row["accuracy"]["value"] for row in curve]
    assert values[0] == record["attacked"] / 8
    assert values[2] == (record["attacked"] - record["fooled"]) / 8
    assert values[2] < values[0]
    assert target == "classifier" or values[0] == 1
    assert all(row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"] for row in curve)
    with (tmp_path / "out" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy_value"]) for row in rows] == values
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lock", "metrics.json", "curve.csv", "curve.png", "examples.png",
    }  # fmt: skip
    assert not (runs["white"] / LEDGER_FILE).exists()


@pytest.mark.parametrize("name", ["one_pixel", "square", "zoo"])
@pytest.mark.parametrize("target", ["classifier", "source"])
def test_queries_of_a_white_box_are_counted_in_the_folder_of_the_attack(
    attacked: Callable[..., dict[str, Any]], tmp_path: Path, name: str, target: str
) -> None:
    found = attacked("white", f"attack={name}", f"target={target}", "attack.max_queries=40", "query_budget=328")
    ledger = Ledger(tmp_path / "out" / LEDGER_FILE, OWN_RUN)
    assert found["queries"] == {
        "total": ledger.spent()["attack"], "uncertain": 0, "retried": 0, "budget": 328, "cost": None,
    }  # fmt: skip
    assert 8 < ledger.total() == ledger.spent()["attack"] <= 328
    assert [row["queries"] for row in found["curve"]] == [0, 1, 2, 5, 10, 20, 40]
    values = [row["accuracy"]["value"] for row in found["curve"]]
    assert values == sorted(values, reverse=True)
    assert values[-1] == (found["attacked"] - found["fooled"]) / 8
    again = attacked("white", f"attack={name}", f"target={target}", "attack.max_queries=40")
    assert again["queries"]["total"] == found["queries"]["total"]  # of this attack alone
    assert again["curve"] == found["curve"]


@pytest.mark.parametrize("name", ["one_pixel", "square", "zoo"])
def test_a_black_box_goes_on_counting_in_its_own_ledger(
    attacked: Callable[..., dict[str, Any]], runs: dict[str, Path], tmp_path: Path, received: list[int], name: str
) -> None:
    ledger = Ledger(runs["black"] / LEDGER_FILE, OWN_RUN)
    before, stored = ledger.spent(), ledger._file.rows("SELECT COUNT(*) FROM answers")
    found = attacked("black", f"attack={name}", "attack.max_queries=30")
    sent = sum(received)
    assert ledger.spent() == {**before, "attack": before["attack"] + sent}
    assert 30 <= found["queries"]["total"] == sent <= 8 * 30  # the first look is at test images that are paid for
    assert ledger._file.rows("SELECT COUNT(*) FROM answers") == stored
    assert not (tmp_path / "out" / LEDGER_FILE).exists()


def test_a_budget_that_is_too_small_sends_nothing(
    attacked: Callable[..., dict[str, Any]], runs: dict[str, Path], received: list[int]
) -> None:
    before = Ledger(runs["black"] / LEDGER_FILE, OWN_RUN).total()
    with pytest.raises(QueryBudgetExceeded, match=r"query_budget: expected 248 or more, .* got 247; nothing was sent"):
        attacked("black", "attack=zoo", "attack.max_queries=30", "query_budget=247")
    assert not received
    assert Ledger(runs["black"] / LEDGER_FILE, OWN_RUN).total() == before


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
@pytest.mark.parametrize("target", ["classifier", "source"])
def test_the_gradient_of_a_black_box_is_refused(
    attacked: Callable[..., dict[str, Any]], name: str, target: str
) -> None:
    with pytest.raises(ConfigError, match=rf"attack={name}: expected a source that shows its gradient.*attack=square"):
        attacked("black", f"attack={name}", f"target={target}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["~attack"], "attack: expected a choice such as attack=pgd, got None"),
        (["target=program"], "target: expected one of classifier, source, got 'program'"),
        (["run=null"], "run: expected the path of a folder, got None"),
        (["run=5"], "run: expected the path of a folder, got 5"),
        (["output=5"], "output: expected the path of a folder, got 5"),
        ([f"output={__file__}"], "output: expected the path of a folder, but .* is a file"),
        (["accelerator=tpu"], "accelerator: expected one of cpu, gpu, auto, got 'tpu'"),
        (["split=dev"], "split: expected one of train, val, test"),
        (["max_examples=0"], "max_examples: expected a whole number >= 1, got 0"),
        (["max_examples=1.5"], "max_examples: expected a whole number"),
        (["query_budget=0"], "query_budget: expected a whole number >= 1"),
        (["batch_size=0"], "batch_size: expected a whole number >= 1"),
        (["num_resamples=0"], "num_resamples: expected a whole number >= 1"),
        (["seed=-1"], "seed: expected a whole number >= 0"),
        (["attack.strengths=[0.1,2]"], r"attack.strengths: expected numbers in \(0, 1\]"),
        (["attack.steps=two"], "attack.steps: expected int"),
        (["attack=zoo", "attack.max_queries=0"], "attack.max_queries: expected a whole number >= 1"),
        (["+attack.stps=3"], "did you mean attack.steps"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_made(
    attacked: Callable[..., dict[str, Any]], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        attacked("white", *overrides)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((runs["white"] / "config.yaml").read_text())
    with pytest.raises(RunError, match="expected a finished run"):
        attack(composed("attack", f"run={tmp_path}"))


def test_a_classifier_that_is_never_right_is_refused(
    attacked: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reprogram.attacks.victim import WholeClassifier

    monkeypatch.setattr(WholeClassifier, "decide", lambda self, scores: torch.full((len(scores),), -1))
    with pytest.raises(DataError, match="expected images that are right before the attack, got none of 8"):
        attacked("white")


def test_no_earlier_numbers_stand_beside_new_pictures(
    attacked: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprogram.attacks.robustness.draw_attacked", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        attacked("white", "attack=fgsm", "attack.strengths=[0.3]")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_the_same_attack_is_not_paid_for_twice_and_another_one_kept_apart(
    attacked: Callable[..., dict[str, Any]], received: list[int]
) -> None:
    square = ("attack=square", "attack.max_queries=10")
    first = attacked("white", *square)
    asked = sum(received)
    assert attacked("white", *square) == first
    assert sum(received) == asked
    with pytest.raises(ConfigError, match="holds an attack with another attack; choose another folder"):
        attacked("white", "attack=square", "attack.max_queries=20")
    with pytest.raises(ConfigError, match="holds an attack with another split"):
        attacked("white", *square, "split=val")
    assert sum(received) == asked


def test_what_an_attack_has_paid_for_is_recorded_when_it_is_cut_off(
    attacked: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, sent = NetworkSource.forward, 0

    def failing(self: NetworkSource, images: torch.Tensor) -> torch.Tensor:
        nonlocal sent
        sent += len(images)
        if sent > 8 + 60:  # the look, and a few images
            raise RuntimeError("the line is cut")
        return original(self, images)

    monkeypatch.setattr(NetworkSource, "forward", failing)
    with pytest.raises(RunError, match=r"the line is cut.*images were attacked before it was cut off; their record"):
        attacked("black", "attack=zoo", "attack.max_queries=32")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["complete"] is False
    assert 0 < record["examples"] < 8
    assert record["curve"][-1]["accuracy"]["value"] == (record["attacked"] - record["fooled"]) / record["examples"]
    monkeypatch.setattr(NetworkSource, "forward", original)
    assert attacked("black", "attack=zoo", "attack.max_queries=32")["complete"]


def test_the_source_is_the_one_that_was_trained_on(attacked: Callable[..., dict[str, Any]]) -> None:
    assert attacked("white", "attack=fgsm")["source_fingerprint"] == embedded_source().fingerprint
