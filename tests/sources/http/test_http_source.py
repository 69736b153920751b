"""A source behind HTTP: what it answers, what it does when the service fails, and what the ledger says then."""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_stub import Says, Script, Sent, Stub, serving
from torch import Tensor

from reprogram.errors import ConfigError, OracleError, QueryBudgetExceeded, ReprogramError, ShapeError, SourceError
from reprogram.sources.black_box import BlackBox
from reprogram.sources.http.adapter import Adapter, Answer, Facts, Images, Reply, Request, UnusableReply
from reprogram.sources.http.source import HttpSource
from reprogram.sources.ledger import Ledger

SIZE, CLASSES = (4, 4), 3
SECRET = "sk-very-secret-0815"


class Toy(Adapter):
    """Sends numbers as JSON; gets a vector of logits for each image."""

    encodings = ("float", "png", "jpeg")
    outputs = "logits"
    says_labels = False

    def __init__(self, most: int | None = 1, says_labels: bool = False, asks: bool = True) -> None:
        self.most, self.says_labels, self.asks = most, says_labels, asks

    @property
    def identity(self) -> str:
        return "toy"

    def question(self) -> Request | None:
        return Request("about", method="GET") if self.asks else None

    def facts(self, reply: Reply) -> Facts:
        return Facts(None if self.says_labels else reply.json()["classes"]) if self.asks else Facts()

    def request(self, images: Images) -> Request:
        return Request("score", json.dumps(images.tensor.tolist()).encode(), {"Content-Type": "application/json"})

    def read(self, reply: Reply, count: int) -> list[Answer]:
        rows = reply.json()
        if not isinstance(rows, list) or len(rows) != count:
            raise UnusableReply(f"expected {count} rows, got {rows}")
        return rows if self.says_labels else [torch.tensor(row) for row in rows]


def logits(images: Tensor) -> Tensor:
    """What the service computes: the mean of each channel, ten times."""
    return 10 * images.mean((2, 3))


def scores(sent: Sent) -> list[list[float]]:
    return logits(torch.tensor(json.loads(sent.content))).tolist()


def honest(sent: Sent, before: int) -> Says:
    return Says({"classes": CLASSES} if sent.path == "/about" else scores(sent))


def failing(failures: dict[int, Callable[[Sent], Says]]) -> Script:
    """Fails at these images, counted without the question about the model."""
    return lambda sent, before: failures.get(before - 1, lambda sent: honest(sent, before))(sent)


def source(stub: Stub, adapter: Adapter | None = None, **choices: Any) -> HttpSource:
    kept = {"encoding": "float", "image_size": SIZE, "longest_wait": 0.02, "timeout": 5.0, "pause": 0.05}
    return HttpSource(stub.url, adapter or Toy(), **kept | choices)


def boxed(stub: Stub, ledger: Ledger | None = None, adapter: Adapter | None = None, **choices: Any):
    ledger = ledger or Ledger(None, "run")
    made = source(stub, adapter, **choices)
    return BlackBox(made, ledger, encoding=made.encoding), ledger


def asked(stub: Stub) -> int:
    return sum(len(json.loads(sent.content)) for sent in stub.got if sent.path == "/score")


# -------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("most", [1, 3, None])
def test_answers_are_those_of_the_service_in_order(most: int | None) -> None:
    images = torch.rand(10, 3, *SIZE)
    with serving(honest) as stub:
        box, ledger = boxed(stub, adapter=Toy(most))
        torch.testing.assert_close(box(images), logits(images).log_softmax(1), atol=1e-5, rtol=0)
        assert box.spec.class_names == ("class 0", "class 1", "class 2")
        assert not box.spec.differentiable
    assert asked(stub) == ledger.total() == 10
    assert ledger.uncertain == ledger.retried == 0


def test_images_are_rounded_to_what_a_file_carries() -> None:
    images = torch.rand(2, 3, *SIZE)
    with serving(honest) as stub:
        box, _ = boxed(stub, encoding="png")
        box(images)
        sent = torch.cat([torch.tensor(json.loads(one.content)) for one in stub.got[1:]])
    assert torch.equal((sent * 255).round(), (images * 255).round())
    torch.testing.assert_close(sent * 255, (sent * 255).round(), atol=1e-4, rtol=0)


def test_labels_get_places_and_unknown_ones_are_other(caplog: pytest.LogCaptureFixture) -> None:
    said = [{"cat": 0.6, "dog": 0.3}, {"dog": 0.5, "yak": 0.2, "emu": 0.1}, {"cat": 1.0}]
    with serving(lambda sent, before: Says([said[before]])) as stub:
        made = source(stub, Toy(says_labels=True, asks=False), classes=["cat", "dog", "cow"], concurrency=1)
        found = made(torch.rand(3, 3, *SIZE)).exp()
    assert made.spec.class_names == ("cat", "dog", "cow", "other")
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.3, 0.05, 0.05]))
    torch.testing.assert_close(found[1], torch.tensor([0.1, 0.5, 0.1, 0.3]))
    assert found[2, 0] > 0.99999
    assert found[2, 1:].min() > 0
    assert caplog.text.count("counts as 'other'") == 1


def test_not_more_requests_are_under_way_than_allowed() -> None:
    with serving(lambda sent, before: Says(honest(sent, before).content, after=0.02)) as stub:
        source(stub, concurrency=3)(torch.rand(12, 3, *SIZE))
        assert stub.most_under_way == 3
    with serving(lambda sent, before: Says(honest(sent, before).content, after=0.02)) as stub:
        source(stub, concurrency=1)(torch.rand(3, 3, *SIZE))
        assert stub.most_under_way == 1


@pytest.mark.parametrize(("concurrency", "most", "images"), [(1, 1, 64), (8, 4, 128), (8, 16, 256), (64, 16, 1024)])
def test_a_question_keeps_all_connections_busy(concurrency: int, most: int, images: int) -> None:
    with serving(honest) as stub:
        assert source(stub, Toy(most), concurrency=concurrency).at_once() == images


# ------------------------------------------------------------------------------------------------------------- failures


FREE = {"429": lambda sent: Says("slow down", 429, {"Retry-After": "0"}), "503": lambda sent: Says("loading", 503)}
UNCLEAR = {"500": lambda sent: Says("oops", 500), "reset": lambda sent: Says(status=0)}
PAID = {
    "truncated": lambda sent: Says(json.dumps(scores(sent)).encode()[:-4]),
    "wrong count": lambda sent: Says([row[:-1] for row in scores(sent)]),
    "not a number": lambda sent: Says([[float("nan")] * CLASSES]),
    "too many rows": lambda sent: Says(scores(sent) * 2),
}


@pytest.mark.parametrize("kind", [*FREE, *UNCLEAR, *PAID])
def test_a_failed_attempt_is_made_again_and_counted_as_far_as_it_may_be_charged(kind: str) -> None:
    images = torch.rand(6, 3, *SIZE)
    with serving(failing({2: (FREE | UNCLEAR | PAID)[kind]})) as stub:
        box, ledger = boxed(stub)
        torch.testing.assert_close(box(images), logits(images).log_softmax(1), atol=1e-5, rtol=0)
    assert asked(stub) == 7
    assert ledger.total() == (6 if kind in FREE else 7)
    assert ledger.retried == (0 if kind in FREE else 1)
    assert ledger.uncertain == (1 if kind in UNCLEAR else 0)


def test_a_slow_reply_is_not_waited_for() -> None:
    images = torch.rand(3, 3, *SIZE)
    with serving(failing({1: lambda sent: Says(scores(sent), after=0.5)})) as stub:
        box, ledger = boxed(stub, timeout=0.1)
        assert box(images).isfinite().all()
    assert (ledger.total(), ledger.uncertain) == (4, 1)


def test_a_service_that_stays_down_ends_the_question_and_nothing_answered_is_lost(tmp_path: Path) -> None:
    images = torch.rand(8, 3, *SIZE)
    down = {index: (lambda sent: Says("down", 500)) for index in range(4, 100)}
    with serving(failing(down)) as stub:
        box, ledger = boxed(stub, Ledger(tmp_path / "ledger.sqlite", "run"), attempts=3, concurrency=1)
        with pytest.raises(OracleError, match=r"status 500 \('\"down\"'\).*resume=RUN_DIR"):
            box(images)
    assert (asked(stub), ledger.total(), ledger.uncertain) == (7, 7, 3)
    with serving(honest) as stub:
        again = HttpSource(stub.url, Toy(), encoding="float", image_size=SIZE, drift_check=0)
        again._fingerprint = box.fingerprint  # the port differs
        torch.testing.assert_close(BlackBox(again, ledger)(images), logits(images).log_softmax(1), atol=1e-5, rtol=0)
        assert asked(stub) == 4


def test_sending_pauses_after_failures_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    down = {index: (lambda sent: Says("down", 503)) for index in range(1, 4)}
    with serving(failing(down)) as stub:
        source(stub, pause_after=3, concurrency=1)(torch.rand(2, 3, *SIZE))
    assert "3 attempts in a row failed: sending pauses for 0.05 s" in caplog.text


# ------------------------------------------------------------------------------------- found out before money is spent


FATAL = {
    "wrong key": (
        lambda sent: Says({"error": f"no such key {SECRET}"}, 401),
        r"status 401 .*the key is missing or wrong",
    ),
    "wrong url": (lambda sent: Says("not here", 404), r"status 404 .*no such address"),
    "redirect": (lambda sent: Says("", 302, {"Location": "https://elsewhere.example"}), r"sends elsewhere \(302"),
    "web page": (lambda sent: Says(b"<!DOCTYPE html><html>Welcome"), r"expected scores, got a web page"),
    "other schema": (lambda sent: Says(b"pong"), r"expected JSON, got 'pong'"),
}


@pytest.mark.parametrize("kind", FATAL)
def test_what_never_fits_is_found_out_by_a_free_question(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", SECRET)
    says, message = FATAL[kind]
    with serving(lambda sent, before: says(sent)) as stub, pytest.raises(SourceError, match=message) as caught:
        source(stub, key_env="TOY_KEY")
    assert len(stub.got) == 1
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", FATAL)
def test_or_by_the_first_image_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", SECRET)
    says, message = FATAL[kind]
    with serving(lambda sent, before: says(sent)) as stub:
        made = source(stub, Toy(asks=False, says_labels=True), key_env="TOY_KEY", classes=["a", "b"])
        ledger = Ledger(None, "run")
        with pytest.raises(OracleError, match=message) as caught:
            BlackBox(made, ledger)(torch.rand(5, 3, *SIZE))
    assert len(stub.got) == 1
    assert stub.got[0].headers["authorization"] == f"Bearer {SECRET}"
    assert ledger.total() == (1 if kind == "other schema" else 0)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", PAID)
def test_a_first_answer_may_be_spoiled_where_the_service_described_itself_fittingly(kind: str) -> None:
    images = torch.rand(3, 3, *SIZE)
    with serving(failing({0: PAID[kind]})) as stub:
        box, ledger = boxed(stub)
        torch.testing.assert_close(box(images), logits(images).log_softmax(1), atol=1e-5, rtol=0)
    assert asked(stub) == ledger.total() == 4
    assert (ledger.retried, ledger.uncertain) == (1, 0)


@pytest.mark.parametrize(("asks", "attempts"), [(True, 2), (False, 1)])
def test_a_service_whose_answers_never_fit_is_not_asked_again_and_again(asks: bool, attempts: int) -> None:
    with serving(lambda sent, before: honest(sent, before) if sent.path == "/about" else Says("no rows")) as stub:
        box, ledger = boxed(stub, adapter=Toy(asks=asks), classes=["a", "b", "c"])
        with pytest.raises(OracleError, match="expected 1 rows, got no rows"):
            box(torch.rand(5, 3, *SIZE))
    assert asked(stub) == ledger.total() == attempts


def test_nobody_there_and_no_tls() -> None:
    with serving(honest) as stub:
        port = stub.url.rsplit(":", 1)[1]
        with pytest.raises(SourceError, match=r"no secure connection .*source\.ca_file"):
            HttpSource(f"https://127.0.0.1:{port}", Toy(), encoding="float", image_size=SIZE)
    with pytest.raises(SourceError, match=r"no reply \(ClientConnectorError.*is source\.url right"):
        HttpSource(f"http://127.0.0.1:{port}", Toy(), encoding="float", image_size=SIZE, longest_wait=0.01)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"url": "http://api.example/v1"}, r"source\.url: expected https, .*plain_http"),
        ({"url": "https://me:word@api.example"}, r"source\.url: expected no name and password"),
        ({"url": "ftp://api.example"}, r"source\.url: expected https://host"),
        ({"encoding": "gif"}, r"access\.encoding: expected one of"),
        ({"key_env": "NO_SUCH_KEY"}, r"source\.key_env: the environment variable NO_SUCH_KEY is not set"),
        ({"key_env": ""}, r"source\.key_env: expected the NAME of the environment variable"),
        ({"key_env": "sk-4711"}, r"source\.key_env: expected the NAME of .*got something else$"),
        ({"proxy": "proxy.example"}, r"source\.proxy: expected http://host:port, or null"),
        ({"proxy": "socks5://proxy.example:1080"}, r"source\.proxy: expected http://host:port"),
        ({"proxy": "http://me:word@proxy.example:port"}, r"source\.proxy: expected http://host:port.*something else$"),
        ({"proxy": "http://[::1"}, r"source\.proxy: expected http://host:port"),
        ({"concurrency": 0}, r"source\.concurrency: expected a whole number >= 1, got 0"),
        ({"timeout": 0.0}, r"source\.timeout: expected a number > 0"),
        ({"images_per_second": -1.0}, r"source\.images_per_second: expected a number > 0"),
        ({"classes": "no/such/file"}, r"source\.classes: expected a list, or a text file"),
        ({"classes": ["a", "a", "b"]}, r"source\.classes: expected distinct names"),
        ({"classes": ["a", "b"]}, r"source\.classes: expected 3 names"),
        ({"ca_file": "no/such/file"}, r"source\.ca_file: expected a file of PEM certificates"),
    ],
)
def test_wrong_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with serving(honest) as stub, pytest.raises(ConfigError, match=message):
        HttpSource(**{"url": stub.url, "adapter": Toy(), "encoding": "float", "image_size": SIZE} | choices)


def test_files_are_as_the_black_box_says() -> None:
    with serving(honest) as stub:
        made = source(stub, encoding="jpeg", jpeg_quality=50)
        with pytest.raises(ConfigError, match=r"source\.jpeg_quality: expected access\.jpeg_quality=90, got 50"):
            BlackBox(made, Ledger(None, "run"), encoding="jpeg")
        assert BlackBox(made, Ledger(None, "run"), encoding="jpeg", jpeg_quality=50).encoding == "jpeg"


@pytest.mark.parametrize("url", ["/models/?api-version=1&tail=/", "/models?api-version=1&tail=/"])
def test_a_query_of_the_address_stays_behind_the_path(url: str) -> None:
    def script(sent: Sent, before: int) -> Says:
        path, _, query = sent.path.partition("?")
        assert query == "api-version=1&tail=/"
        return honest(Sent(path.removeprefix("/models"), sent.headers, sent.content), before)

    with serving(script) as stub:
        made = HttpSource(stub.url + url, Toy(), encoding="float", image_size=SIZE)
        assert made(torch.rand(2, 3, *SIZE)).isfinite().all()
        assert [sent.path.partition("?")[0] for sent in stub.got] == ["/models/about", *2 * ["/models/score"]]


def test_images_of_another_size_are_not_sent() -> None:
    with serving(honest) as stub, pytest.raises(ShapeError):
        source(stub)(torch.rand(1, 3, 5, 5))
    assert asked(stub) == 0


# --------------------------------------------------------------------------------------------------------------- ledger


def test_a_budget_is_never_passed_and_what_is_under_way_is_kept() -> None:
    with serving(honest) as stub:
        box, ledger = boxed(stub, Ledger(None, "run", 5))
        with pytest.raises(QueryBudgetExceeded):
            box(torch.rand(9, 3, *SIZE))
        assert asked(stub) == ledger.total() == 5


def test_a_free_failure_gives_a_reservation_back() -> None:
    with serving(failing({1: FREE["503"]})) as stub:
        box, ledger = boxed(stub, Ledger(None, "run", 4))
        ledger.reserve({"test": 4})
        with box.asked_for("test"):
            box(torch.rand(4, 3, *SIZE))
    assert (ledger.total(), ledger.free()) == (4, 0)


@pytest.mark.parametrize("kind", ["503", "500"])
def test_a_question_is_booked_under_the_purpose_it_began_with(kind: str) -> None:
    ledger, later = Ledger(None, "run", 9), ExitStack()

    def interrupted(sent: Sent) -> Says:  # twice: the run goes on to something else, and the reply comes then
        later.enter_context(ledger.purpose("baseline"))
        return (FREE | UNCLEAR)[kind](sent)

    with later, serving(failing({0: interrupted})) as stub:
        box, _ = boxed(stub, ledger)
        with box.asked_for("test"):
            box(torch.rand(2, 3, *SIZE))
    assert ledger.spent()["test"] == ledger.total() == (2 if kind == "503" else 3)
    assert ledger.lost()["test"] == ledger.uncertain == (0 if kind == "503" else 1)


def test_an_answer_is_stored_before_the_next_image_is_sent(tmp_path: Path) -> None:
    seen = []

    def script(sent: Sent, before: int) -> Says:
        if before > 0:
            other = Ledger(tmp_path / "ledger.sqlite", "another")
            seen.append(other._file.rows("SELECT COUNT(*) FROM answers")[0][0])
        return honest(sent, before)

    with serving(script) as stub:
        box, _ = boxed(stub, Ledger(tmp_path / "ledger.sqlite", "run"), concurrency=1)
        box(torch.rand(4, 3, *SIZE))
    assert seen == [0, 1, 2, 3]


def test_equal_images_are_paid_once_and_training_is_stored_too() -> None:
    images = torch.rand(3, 3, *SIZE)
    with serving(honest) as stub:
        box, ledger = boxed(stub)
        with box.asked_for("train"):
            first = box(torch.cat([images, images]))
            second = box(images)
        assert torch.equal(first, torch.cat([second, second]))
        assert asked(stub) == ledger.total() == 3


def test_stored_answers_that_changed_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(3, 3, *SIZE)
    drifted = threading.Event()

    def script(sent: Sent, before: int) -> Says:
        if sent.path == "/about" or not drifted.is_set():
            return honest(sent, before)
        return Says([[0.0, 9.0, 0.0] for _ in scores(sent)])

    with serving(script) as stub:
        box, ledger = boxed(stub)
        box(images)
        again = BlackBox(source(stub, drift_check=2), ledger)
        box_again = again(images)
        assert "stored answers" not in caplog.text
        assert ledger.spent()["other"] == 3 + 2
        drifted.set()
        changed = BlackBox(source(stub, drift_check=2), ledger)
        torch.testing.assert_close(changed(images), box_again)
        changed(images)
        assert caplog.text.count("of 2 stored answers asked for again a probability has changed by 0.") == 1
        assert asked(stub) == 3 + 2 + 2


def test_a_service_that_is_gone_does_not_keep_stored_answers_from_being_used(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(2, 3, *SIZE)
    with serving(honest) as stub:
        box, ledger = boxed(stub)
        first = box(images)
        again = BlackBox(source(stub), ledger)
    assert torch.equal(again(images), first)
    assert "whether stored answers still hold was not checked" in caplog.text


def test_no_log_has_the_key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TOY_KEY", SECRET)
    with caplog.at_level(logging.DEBUG), serving(failing({1: lambda sent: Says(f"bad {SECRET}", 500)})) as stub:
        box, _ = boxed(stub, key_env="TOY_KEY", attempts=1, concurrency=1)
        with pytest.raises(ReprogramError) as caught:
            box(torch.rand(3, 3, *SIZE))
    assert "***" in str(caught.value)
    assert SECRET not in caplog.text + str(caught.value) + repr(box)
