"""Whole runs behind a black box: what they spend, what they refuse, and what they share."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import reprogram
from reprogram import build, finishing, runs, sourcing
from reprogram.commands.launch import config_folder
from reprogram.errors import ConfigError, OracleError, QueryBudgetExceeded, ReprogramError
from reprogram.prediction import predict
from reprogram.rescoring import evaluate
from reprogram.runs import RunResult
from reprogram.sources.ledger import LEDGER_FILE, OWN_RUN, Ledger

SIZES = ("protocol.max_train=48", "protocol.max_val=24", "protocol.max_test=24", "data.batch_size=16")
BLACK_BOX = (
    "access=black_box", "access.queries_per_second=1000", "estimator=two_sided", "mapping=frequency",
    "program.resolution=4", "trainer.max_epochs=-1", "evaluation.baselines=[mapping_only]",
)  # fmt: skip
CHEAP: dict[str, tuple[str, ...]] = {  # one that is not here is tested as it is configured
    "one_sided": ("estimator.num_directions=2", "estimator.smoothing=1"),
    "nes": ("estimator.num_directions=1",),
    "coordinate": ("estimator.num_coordinates=1",),
    "spsa": ("estimator.num_directions=1",),
    "cma_es": ("estimator.population=4",),
}
ESTIMATORS = sorted(path.stem for path in (config_folder() / "estimator").glob("*.yaml") if path.stem != "backprop")
STEP = 2 * 16  # queries of one step of two_sided
FIXED = 48 + 5 * 24 + 24 + 24  # mapping, validation, test, and the test images of the mapping alone

Train = Callable[..., RunResult]


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that really reach the source within the black box."""
    sizes: list[int] = []

    def counting(made: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            source = made(*args)
            source.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
            return source

        return counted

    for name in ("training_source", "source"):
        monkeypatch.setattr(sourcing, name, counting(getattr(sourcing, name)))
    return sizes


@pytest.fixture
def train(small, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs a small black-box training; the pictures are of no interest here."""
    monkeypatch.setattr(finishing, "illustrate", lambda *_: [])
    return lambda *overrides, **options: runs.train(small(*BLACK_BOX, *overrides, sizes=SIZES, **options))


def account(run_dir: Path) -> Ledger:
    return Ledger(run_dir / LEDGER_FILE, OWN_RUN)


def monitored(record: dict[str, Any], step: int) -> float:
    return next(row["val/balanced_accuracy"] for row in record["history"] if row["step"] == step)


# ------------------------------------------------------------------------------------------------------ what is spent


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_spends_what_the_ledger_says_and_never_more_than_the_budget(
    estimator: str, train: Train, received: list[int], tmp_path: Path
) -> None:
    record = train(f"estimator={estimator}", *CHEAP.get(estimator, ()), "access.query_budget=560").metrics
    queries = record["queries"]
    assert FIXED < queries["total"] <= queries["budget"] == 560
    assert queries["total"] == sum(received) == account(tmp_path / "run").total()
    assert (queries["mapping"], queries["test"]) == (48, 24)
    assert queries["baseline"] == (24 if record["best_step"] else 0)  # the test images without a program
    assert queries["validation"] == 24 * len(record["history"])
    assert queries["uncertain"] == 0
    assert record["history"][0]["epoch"] == -1
    assert record["history"][-1]["queries"] == queries["train"] + queries["mapping"]
    assert monitored(record, record["best_step"]) >= monitored(record, 0)
    assert account(tmp_path / "run").free() is None


@pytest.mark.parametrize("store", ["auto", "off"])
def test_to_be_sure_costs_what_the_plan_says(store: str, train: Train, received: list[int]) -> None:
    choice = ("access.query_budget=620", f"access.store={store}", "callbacks.monitor=val/nll", "callbacks.mode=min")
    record = train(*choice, "callbacks.confidence=0.95", "optimizer.lr=0.3", "evaluation.baselines=[]").metrics
    queries, rows = record["queries"], record["history"]
    assert queries["total"] == sum(received) <= 620
    compared = min(row["val/nll"] for row in rows[1:]) < rows[0]["val/nll"]
    again = 0 if store == "auto" else 1 + 2 * compared
    assert queries["validation"] == 24 * (len(rows) + again)
    assert compared  # else the test shows nothing


def test_the_pictures_ask_for_nothing_new(small, received: list[int]) -> None:
    queries = runs.train(small(*BLACK_BOX, "access.query_budget=400", sizes=SIZES)).metrics["queries"]
    assert queries["test"] == 24
    assert queries["total"] == sum(received) <= 400


def test_a_dry_run_prints_the_plan_and_does_nothing(
    train: Train, received: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = train("access.dry_run=true", "access.query_budget=1000", "access.price_per_1000=3")
    assert found is None
    assert not received
    assert not list(tmp_path.rglob("*.*"))
    said = " ".join(caplog.text.split())
    for words in ("mapping 48", "validation 120", "test 24", "baseline 24", "of 1,000", "cost", "1,000 queries/s"):
        assert words in said


def test_a_price_becomes_a_cost(train: Train) -> None:
    queries = train("access.query_budget=400", "access.price_per_1000=1.5").metrics["queries"]
    assert queries["cost"] == pytest.approx(queries["total"] * 0.0015)


@pytest.mark.parametrize(
    "choice",
    [
        ("mapping=assignment",),
        ("mapping=assignment", "evaluation.baselines=[]"),
        ("mapping=linear", "mapping.refresh=never"),
        ("mapping=linear", "mapping.refresh=never", "mapping.refit_at_end=false", "access.price_per_1000=1"),
        ("mapping=linear", "mapping.refresh=validation", "access.store=off"),
        ("access.store=off", "evaluation.baselines=[mapping_only,linear_probe]"),
        ("access.prime=20", "access.micro_batch=7"),
    ],
    ids=" ".join,
)
def test_whatever_is_fitted_and_stored_the_plan_covers_it(
    choice: tuple[str, ...], train: Train, received: list[int]
) -> None:
    record = train(*choice, "access.query_budget=700").metrics
    assert record["queries"]["total"] == sum(received) <= 700
    assert record["history"][-1]["step"] > 1


def test_accumulated_steps_are_paid_for_together_and_the_last_is_validated(train: Train, received: list[int]) -> None:
    # 5 batches make 3 steps an epoch, the last of them of one batch
    record = train(
        "data.batch_size=10", "trainer.accumulate_grad_batches=2", "access.query_budget=700", "access.validations=4"
    ).metrics
    queries, last = record["queries"], record["history"][-1]
    assert queries["total"] == sum(received) <= 700
    assert 700 - queries["total"] < 3 * 2 * 20  # less than a step for each of the three validations is left
    epochs, rest = divmod(last["step"], 3)
    assert queries["train"] == 2 * (48 * epochs + 20 * rest)
    assert queries["validation"] == 4 * 24


def test_scores_as_an_api_gives_them_suffice(small, received: list[int]) -> None:
    choice = ("access.top_k=5", "access.decimals=2", "access.encoding=png", "access.query_budget=3600")
    choice += ("mapping.refresh=once", "callbacks.monitor=val/nll", "callbacks.mode=min")
    sizes = ("protocol.max_train=96", "protocol.max_val=100", "protocol.max_test=24", "data.batch_size=16")
    record = runs.train(small(*BLACK_BOX, *choice, sizes=sizes)).metrics
    first = record["history"][0]["val/nll"]
    assert record["best_step"] > 0
    assert min(row["val/nll"] for row in record["history"]) < first - 0.05
    assert record["queries"]["total"] == sum(received) <= 3600


def test_many_directions_track_the_gradient(small, train: Train, tmp_path: Path) -> None:
    common = (
        "program=full", "program.resolution=4", "program.tied=true", "optimizer=sgd", "optimizer.lr=0.02",
        "optimizer.momentum=0", "scheduler=constant", "trainer.max_epochs=2", "evaluation.baselines=[]",
        "mapping=frequency", "mapping.refresh=once",
    )  # fmt: skip
    runs.train(small(*common, sizes=SIZES, run_dir="white"))
    many = ("num_directions=16", "smoothing=0.02", "directions=orthogonal", "per_example=false")
    record = train(*common, *(f"estimator.{choice}" for choice in many)).metrics
    white, black = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"][
            "classifier.program.theta"
        ]
        for name in ("white", "run")
    )
    assert len(white) == record["dimension"] == 16
    assert white.norm() > 1e-3
    assert torch.cosine_similarity(white, black, dim=0) > 0.95
    assert float(black.norm() / white.norm()) == pytest.approx(1, abs=0.1)
    assert record["queries"]["train"] == 2 * 48 * 32
    assert record["queries"]["budget"] is None


# -------------------------------------------------------------------------------------------------- what is shared


def test_a_second_run_on_the_same_ledger_pays_for_its_training_alone(
    train: Train, received: list[int], tmp_path: Path
) -> None:
    shared = (f"access.ledger={tmp_path / 'shared' / 'account.sqlite'}", "access.query_budget=1000")
    first = train(*shared, "trainer.max_steps=4").metrics
    second = train(*shared, "trainer.max_steps=4", run_dir="second").metrics
    assert second["queries"] == {
        **dict.fromkeys(("mapping", "validation", "test", "baseline", "attack", "other"), 0),
        **dict.fromkeys(("uncertain", "retried"), 0),
        "train": 4 * STEP, "total": 4 * STEP, "budget": 1000, "cost": None,
    }  # fmt: skip
    assert second["test"] == first["test"]
    assert second["baselines"] == first["baselines"]
    total = Ledger(tmp_path / "shared" / "account.sqlite", "anybody", 1000)
    assert total.total() == first["queries"]["total"] + second["queries"]["total"] == sum(received) <= 1000
    assert total.free() == 1000 - total.total()  # nothing stays reserved
    assert not (tmp_path / "run" / LEDGER_FILE).exists()


def test_where_queries_are_priced_a_second_run_pays_nothing(train: Train, received: list[int], tmp_path: Path) -> None:
    shared = (f"access.ledger={tmp_path / 'account.sqlite'}", "access.price_per_1000=1", "trainer.max_steps=4")
    train(*shared)
    asked = sum(received)
    second = train(*shared, run_dir="second").metrics
    assert sum(received) == asked
    assert (second["queries"]["total"], second["queries"]["cost"]) == (0, 0)


def test_of_a_shared_account_with_too_little_left_a_run_takes_what_there_is_or_is_refused(
    train: Train, received: list[int], tmp_path: Path
) -> None:
    ledger = f"access.ledger={tmp_path / 'account.sqlite'}"
    spent = train(ledger, "trainer.max_steps=4").metrics["queries"]["total"]
    budget = spent + FIXED + STEP + 5
    second = train(ledger, f"access.query_budget={budget}", "protocol.seed=1", run_dir="second").metrics
    # what it reserved and did not need pays for no step: a step is asked for before it is needed, not after
    assert [row["step"] for row in second["history"]] == [0, 1]
    assert spent + second["queries"]["total"] == sum(received) <= budget
    asked = sum(received)
    with pytest.raises(QueryBudgetExceeded, match=r"cannot reserve 48 for mapping, .* larger access"):
        train(ledger, f"access.query_budget={budget}", "protocol.seed=2", run_dir="third")
    assert sum(received) == asked
    assert not (tmp_path / "third" / "metrics.json").exists()


def test_what_a_finished_run_is_asked_later_goes_on_its_account(
    train: Train, received: list[int], tmp_path: Path
) -> None:
    record = train("access.query_budget=400").metrics
    total = sum(received)
    run = tmp_path / "run"
    choice = {"run": str(run), "output": None, "num_resamples": 20, "batch_size": None, "accelerator": "cpu"}
    for split in ("val", "test"):
        again = evaluate({**choice, "split": split})
        assert again["recorded"] == record[split]
        for name, found in again["metrics"].items():
            assert found == pytest.approx(record[split][name], abs=1e-6)
    assert sum(received) == account(run).total() == total  # all of it was stored

    Image.effect_noise((24, 20), 90).save(tmp_path / "scan.png")
    assert predict(run, str(tmp_path / "scan.png"), tmp_path / "out.csv") == 1
    assert account(run).spent()["other"] == 1
    classifier = reprogram.load(run)
    assert not classifier.source.spec.differentiable
    with torch.no_grad():
        classifier(torch.randint(0, 256, (3, 3, *classifier.task.image_size), dtype=torch.uint8))
    assert account(run).spent() == {**{key: record["queries"][key] for key in account(run).spent()}, "other": 4}
    assert sum(received) == total + 4
    moved = run.rename(tmp_path / "elsewhere")
    evaluate({**choice, "run": str(moved), "split": "train"})
    assert account(moved).spent()["other"] > 4


def test_a_program_without_its_run_is_counted_in_memory(train: Train, tmp_path: Path) -> None:
    train("access.query_budget=400")
    (tmp_path / "run" / "program").rename(tmp_path / "program")
    classifier = reprogram.load(tmp_path / "program")
    classifier(torch.zeros(2, 3, *classifier.task.image_size))
    assert classifier.source.queries()["other"] == 1  # two equal images
    assert not (tmp_path / LEDGER_FILE).exists()


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("access.query_budget=215",), r"expected at least 216 queries .*32 for one training step.*got 215"),
        (("access.query_budget=247", "access.prime=48"), r"expected at least 248 queries .*48 for mapping.*got 247"),
        (("access.query_budget=0",), r"access\.query_budget: expected a whole number >= 1"),
        (("access.encoding=png", "estimator.smoothing=1e-6"), r"estimator\.smoothing: expected a step that the source"),
        (("estimator.smoothing=0",), r"estimator\.smoothing: expected a number > 0"),
        (("estimator.num_directions=0",), r"estimator\.num_directions: expected a whole number >= 1, got 0"),
        (("estimator=one_sided", "estimator.num_directions=0"), r"estimator\.num_directions"),
        (("estimator=backprop",), r"access=black_box hides the gradient; choose estimator=two_sided"),
        (("estimator=spsa", "trainer.accumulate_grad_batches=2"), r"accumulate_grad_batches: expected 1"),
        (("estimator=coordinate", "trainer.gradient_clip_val=1"), r"gradient_clip_val: expected None"),
        (("access.query_budget=null",), r"max_epochs: .*or access\.query_budget=N"),
        (("access.validations=0",), r"access\.validations: expected a whole number >= 2"),
        (("access.prime=0",), r"access\.prime: expected a whole number >= 1"),
        (("access.price_per_1000=-1",), r"access\.price_per_1000: expected a number > 0"),
        (("access.top_k=0",), r"access\.top_k"),
        (("access.decimals=0",), r"access\.decimals"),
        (("access.encoding=gif",), r"access\.encoding"),
        (("access.store=maybe",), r"access\.store: expected one of auto, on, off"),
        (("callbacks.monitor=val/typo",), r"callbacks\.monitor"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_refused_before_any_query(
    choice: tuple[str, ...], message: str, train: Train, received: list[int], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train("access.query_budget=600", *choice)
    assert not received
    assert not list(tmp_path.rglob("*.*"))


def test_the_least_budget_that_the_error_names_is_enough(train: Train, received: list[int]) -> None:
    assert train("access.query_budget=216").metrics["history"][-1]["step"] == 1
    assert sum(received) <= 216


NETWORK = """
from pathlib import Path
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, fault):
        super().__init__()
        torch.manual_seed(5)
        self.fault, self.layers = Path(fault), nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 12))

    def forward(self, x):
        logits, fault = self.layers(x), self.fault.read_text()
        if fault == "nan":
            logits = logits.clone()
            logits[-1] = float("nan")
        if fault == "down":
            raise ConnectionError("the service is down")
        return logits[:, :11] if fault == "classes" else logits
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Overrides that choose a source which answers as the file ``fault`` says."""
    (tmp_path / "network_of_black_boxes.py").write_text(NETWORK)
    (tmp_path / "fault").write_text("none")
    monkeypatch.syspath_prepend(tmp_path)
    return (
        "source=module", "source.target=network_of_black_boxes.Network", "source.image_size=[24,24]",
        "source.prepare=false", f"+source.kwargs.fault={tmp_path / 'fault'}",
    )  # fmt: skip


STORED = ("access.price_per_1000=1", "trainer.max_steps=8", "callbacks.checkpoint_every=1")


@pytest.fixture
def breaks_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Sets the fault that the source has from some step on, until the file says otherwise."""

    def setup(step: int, fault: str) -> None:
        class Break(pl.Callback):
            def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
                if trainer.global_step == step:
                    (tmp_path / "fault").write_text(fault)
                    monkeypatch.setattr(build, "callbacks", made)  # the next run is whole

        made = build.callbacks
        monkeypatch.setattr(build, "callbacks", lambda *args: [*made(*args), Break()])

    return setup


@pytest.mark.parametrize(
    ("fault", "asked_again", "message"),
    [
        ("nan", 1, r"expected finite log-probabilities, got NaN in the scores of 1 of 32 images"),
        ("classes", 32, r"expected 12 log-probabilities per image, \[32, 12\], got \[32, 11\]"),
        ("down", 32, r"the source failed \(ConnectionError: the service is down\)"),
    ],
    ids=["nan", "classes", "down"],
)
def test_a_source_that_fails_costs_what_was_sent_and_the_run_goes_on(
    fault: str,
    asked_again: int,
    message: str,
    train: Train,
    received: list[int],
    network: tuple[str, ...],
    breaks_after: Callable[[int, str], None],
    tmp_path: Path,
) -> None:
    choice = (*network, *STORED, "access.query_budget=900")
    whole = train(*choice, run_dir="whole").metrics
    del received[:]

    breaks_after(5, fault)
    with pytest.raises(OracleError, match=message + r".*continue the run with resume=.*nothing paid for is lost"):
        train(*choice)
    assert account(tmp_path / "run").total() == sum(received)
    (tmp_path / "fault").write_text("none")
    again = train(*choice).metrics
    assert again["queries"]["total"] == sum(received)
    assert again["queries"]["train"] == whole["queries"]["train"] + asked_again
    assert again["history"] == whole["history"]
    assert again["test"] == whole["test"]


@pytest.mark.parametrize(
    "budget",
    [
        900,
        FIXED + 8 * STEP,  # what failed is asked again, and training gives up a step for it
    ],
    ids=["ample", "tight"],
)
def test_a_source_that_fails_in_a_validation_is_asked_again(
    budget: int,
    train: Train,
    received: list[int],
    network: tuple[str, ...],
    breaks_after: Callable[[int, str], None],
    tmp_path: Path,
) -> None:
    choice = (*network, *STORED, f"access.query_budget={budget}")
    whole = train(*choice, run_dir="whole").metrics
    del received[:]
    breaks_after(4, "down")
    with pytest.raises(OracleError, match="the service is down"):
        train(*choice)
    (tmp_path / "fault").write_text("none")
    again = train(*choice).metrics
    assert again["queries"]["total"] == sum(received) <= budget
    assert again["queries"]["validation"] == whole["queries"]["validation"] + 16
    assert again["history"][:4] == whole["history"][:4]


def test_a_source_that_is_wrong_from_the_start_costs_one_batch(
    train: Train, received: list[int], network: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build.accessed

    def accessed(*args: Any) -> Any:
        (tmp_path / "fault").write_text("nan")
        return made(*args)

    monkeypatch.setattr(build, "accessed", accessed)
    with pytest.raises(ReprogramError, match="NaN"):
        train(*network, "access.query_budget=600")
    assert received == [16]
    assert account(tmp_path / "run").spent()["mapping"] == 16
    assert account(tmp_path / "run").total() == 16
