"""Whole runs against a service behind HTTP: classes that are found out, queries on both sides, secrets."""

from pathlib import Path

import pytest
import yaml
from http_services import LABELS, SERVICES
from scoring_stub import Says, Sent, Stub, serving

from reprogram import runs
from reprogram.artefact import load
from reprogram.errors import ConfigError, QueryBudgetExceeded, SourceError
from reprogram.sources.ledger import Ledger

SIZES = ("protocol.max_train=32", "protocol.max_val=16", "protocol.max_test=16", "data.batch_size=16")
CHOICES = (
    *("recipe=black_box", "data=digits", "access.encoding=png", "access.queries_per_second=1000", "program=frame"),
    *("program.resolution=2", "estimator.smoothing=4", "source.image_size=[6,6]", "program.size=4"),
    *("trainer.max_steps=2", "evaluation.baselines=[mapping_only]", "callbacks.confidence=null", "source.attempts=2"),
)
SECRET = "sk-very-secret-4711"


@pytest.fixture
def of(small, monkeypatch: pytest.MonkeyPatch):
    """Composes a run against a stub."""
    monkeypatch.setenv("TOY_KEY", SECRET)

    def make(stub: Stub, name: str, *overrides: str):
        adapter = SERVICES[name][1]
        chosen = [f"source.adapter.{key}={value}" for key, value in adapter.items()]
        here = (f"source={name}", f"source.url={stub.url}", "source.key_env=TOY_KEY")
        return small(*CHOICES, *here, *chosen, *overrides, sizes=SIZES)

    return make


def asked(stub: Stub) -> int:
    return sum(bool(sent.content) for sent in stub.got)


@pytest.mark.parametrize("name", ["http_json", "http_hugging_face"])
def test_labels_become_classes_and_nothing_is_paid_twice(name: str, of, tmp_path: Path) -> None:
    with serving(SERVICES[name][0]) as stub:
        result = runs.train(of(stub, name))
        config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert config["source"]["classes"] == sorted(LABELS)
        account = Ledger(tmp_path / "run" / "ledger.sqlite", ".")
        assert asked(stub) == account.total() == result.metrics["queries"]["total"]
        assert result.metrics["queries"]["other"] == 0  # what was found out just now has not drifted
        assert result.metrics["queries"]["mapping"] <= 3 * 32  # the first pass once, and refits
        assert result.metrics["queries"]["retried"] == result.metrics["queries"]["uncertain"] == 0
        classifier = load(tmp_path / "run")
        assert classifier.source.spec.class_names == (*sorted(LABELS), "other")


@pytest.mark.parametrize(("spare", "left"), [(0, 0), ("null", 16)])
def test_a_failed_attempt_of_the_last_scoring_needs_a_spare_query(spare: object, left: int, of, tmp_path: Path) -> None:
    answering, failed = SERVICES["http"][0], []

    def failing_once(sent: Sent, before: int) -> Says:
        account = Ledger(tmp_path / "run" / "ledger.sqlite", ".", budget)
        if account.spent()["test"] < 16 or failed:
            return answering(sent, before)
        failed.append(account.free())
        return Says("try again", 500)

    budget = 2 * 32 + 2 * 16 + 16 + 2 * 32 + left  # passes, validations, test, steps
    adapter = ("source.adapter.outputs=logits", "source.image_size=[6,5]", "access.encoding=float")
    choices = (f"access.query_budget={budget}", f"access.spare={spare}", "access.validations=2", "source.concurrency=1")
    quick = ("source.longest_wait=0.01", "evaluation.baselines=[]", "trainer.max_steps=-1")
    with serving(failing_once) as stub:
        cfg = of(stub, "http", *adapter, *choices, *quick)
        if spare == 0:
            with pytest.raises(QueryBudgetExceeded):
                runs.train(cfg)
        else:
            queries = runs.train(cfg).metrics["queries"]
            assert (queries["train"], queries["test"], queries["uncertain"]) == (2 * 32, 16 + 8, 8)  # one request
            assert queries["total"] <= budget
    assert failed == [left]


def test_a_wrong_key_costs_nothing(of, tmp_path: Path) -> None:
    with serving(lambda sent, before: Says("who are you?", 401)) as stub:
        with pytest.raises(SourceError, match="the key is missing or wrong"):
            runs.train(of(stub, "http", "source.adapter.outputs=logits"))
        assert asked(stub) == 0
        assert not (tmp_path / "run" / "ledger.sqlite").exists()


def test_more_scores_than_there_are_labels_are_refused_when_these_are_known(of, tmp_path: Path) -> None:
    with serving(SERVICES["http_json"][0]) as stub:
        with pytest.raises(ConfigError, match=r"access\.top_k: .* 1\.\.4, for 3 .*got 5; set access\.top_k=4") as told:
            runs.train(of(stub, "http_json", "access.top_k=5"))
        assert f"run_dir={tmp_path / 'run'}" in str(told.value)
        pass_over = asked(stub)
        queries = runs.train(of(stub, "http_json", "access.top_k=4")).metrics["queries"]
        assert queries["mapping"] < pass_over + 32  # was kept
        assert asked(stub) == queries["total"]


def test_a_plan_sends_nothing(of) -> None:
    with serving(SERVICES["http_json"][0]) as stub:
        assert runs.train(of(stub, "http_json", "access.dry_run=true", "access.query_budget=1000")) is None
        assert stub.got == []


def test_no_file_of_a_run_holds_the_key(of, tmp_path: Path) -> None:
    def repeating(sent: Sent, before: int) -> Says:  # a service that shows it in an error
        assert sent.headers["authorization"] == f"Bearer {SECRET}"
        return Says(f"no quota left for {SECRET}", 500) if before % 7 == 3 else SERVICES["http_json"][0](sent, before)

    with serving(repeating) as stub:
        runs.train(of(stub, "http_json", "logger=csv", "source.longest_wait=0.01", "source.attempts=9"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_labels_alone_are_refused_by_an_estimator_of_small_changes(of) -> None:
    with (
        serving(SERVICES["http_json"][0]) as stub,
        pytest.raises(ConfigError, match=r"estimator: expected nes or cma_es, since .* gives a label without a score"),
    ):
        runs.train(of(stub, "http_json", "source.adapter.score_at=null", "source.classes=[red,green,blue]"))
    assert stub.got == []


def test_classes_cannot_be_found_out_without_a_store(of) -> None:
    with serving(SERVICES["http_json"][0]) as stub, pytest.raises(ConfigError, match=r"source\.classes: .*give a list"):
        runs.train(of(stub, "http_json", "access.store=off"))
    assert stub.got == []
