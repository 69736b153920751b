"""Faults on purpose: at their rates, the same for the same seed, and nothing where there are none."""

import asyncio
import inspect
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from reprogram.errors import ConfigError
from reprogram.serving.faults import KEY, Faults, FaultyReplies, spoil
from reprogram.serving.model import Answer

BODY = b'[{"label": "cat", "score": 0.5}]'


def test_faults_come_at_their_rates() -> None:
    faults = Faults(status_429=0.1, reset=0.05, nan=0.02, seed=3)
    found = Counter(faults.draw() for _ in range(20_000))
    assert set(found) == {"status_429", "reset", "nan", None}
    for name, rate in (("status_429", 0.1), ("reset", 0.05), ("nan", 0.02), (None, 0.83)):
        assert found[name] / 20_000 == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 20_000) ** 0.5)


def test_a_seed_gives_the_same_faults_again() -> None:
    def draws(seed: int) -> list[str | None]:
        faults = Faults(status_429=0.2, slow=0.2, truncated=0.2, seed=seed)
        return [faults.draw() for _ in range(50)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_a_rate_of_one_is_always_and_none_is_never() -> None:
    always = Faults(wrong_count=1.0)
    assert always
    assert {always.draw() for _ in range(200)} == {"wrong_count"}
    never = Faults()
    assert not never
    assert {never.draw() for _ in range(200)} == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slow": 1.5}, r"faults.slow: expected a rate in \[0, 1\], got 1.5"),
        ({"nan": float("nan")}, r"faults.nan: expected a rate in \[0, 1\], got nan"),
        ({"reset": 0.6, "slow": 0.6}, "faults: expected rates of a sum of at most 1, got 1.2"),
        ({"seed": -1}, "faults.seed: expected a whole number >= 0, got -1"),
        ({"seconds": -1.0}, "faults.seconds: expected a number >= 0, got -1"),
    ],
)
def test_other_rates_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Faults(**arguments)


class Connection:
    """What uvicorn hands to an application, as far as faults touch it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.done: list[str] = []
        self.transport = SimpleNamespace(abort=lambda: self.done.append("abort"), close=self.close)

    def close(self) -> None:
        self.done.append("close")

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.disconnect" if self.done else "http.request"}


def ask(faults: Faults, method: str = "POST") -> tuple[Connection, list[dict[str, Any]]]:
    """One request to an application that always gives the same reply; and the scopes it was called with."""
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        headers = [(b"content-length", str(len(BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    connection = Connection()
    scope = {"type": "http", "method": method, "path": "/classify", "headers": []}
    asyncio.run(FaultyReplies(app, faults)(scope, connection.receive, connection.send))
    return connection, scopes


def body(connection: Connection) -> bytes:
    return b"".join(message.get("body", b"") for message in connection.sent)


def test_what_is_no_question_has_no_fault() -> None:
    connection, _ = ask(Faults(status_500=1.0), "GET")
    assert connection.sent[0]["status"] == 200
    assert body(connection) == BODY


def test_too_many_requests_never_reach_the_model() -> None:
    connection, scopes = ask(Faults(status_429=1.0))
    assert not scopes
    assert connection.sent[0]["status"] == 429
    assert (b"retry-after", b"1") in connection.sent[0]["headers"]


def test_a_server_error_hides_the_reply_of_a_model_that_was_asked() -> None:
    connection, scopes = ask(Faults(status_500=1.0))
    assert len(scopes) == 1
    assert [message.get("status") for message in connection.sent] == [500, None]
    assert b"cat" not in body(connection)


def test_a_slow_reply_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("reprogram.serving.faults.asyncio.sleep", sleep)
    connection, _ = ask(Faults(slow=1.0, seconds=7.5))
    assert slept == [7.5]
    assert body(connection) == BODY


def test_a_reset_closes_the_connection_without_a_reply() -> None:
    connection, scopes = ask(Faults(reset=1.0))
    assert len(scopes) == 1
    assert connection.sent == []
    assert connection.done == ["abort"]


def test_a_truncated_reply_is_half_of_what_it_says_it_is() -> None:
    connection, _ = ask(Faults(truncated=1.0))
    assert connection.sent[0]["headers"] == [(b"content-length", str(len(BODY)).encode())]
    assert body(connection) == BODY[: len(BODY) // 2]
    assert connection.sent[-1]["more_body"]
    assert connection.done == ["close"]


@pytest.mark.parametrize("fault", ["wrong_count", "nan", "duplicate"])
def test_faults_of_scores_are_left_to_the_routes(fault: str) -> None:
    connection, (scope,) = ask(Faults(**{fault: 1.0}))
    assert scope[KEY] == fault
    assert body(connection) == BODY


def test_scores_are_spoilt() -> None:
    answer = Answer(np.array([[-3.0, -1.0, -2.0], [-1.0, -2.0, -3.0]], dtype=np.float32), None)
    assert spoil(answer, "wrong_count").scores.tolist() == [[-3.0, -1.0], [-1.0, -2.0]]
    spoilt = spoil(answer, "nan").scores
    assert np.isnan(spoilt).tolist() == [[False, True, False], [False, False, False]]
    assert spoil(answer, "duplicate") is answer
    assert np.isfinite(answer.scores).all()


def test_the_config_shows_every_rate_with_its_default() -> None:
    file = Path(__file__).parents[2] / "configs" / "serve.yaml"
    shown = yaml.safe_load(file.read_text(encoding="utf-8"))["faults"]
    assert shown.pop("_target_") == f"{Faults.__module__}.{Faults.__name__}"
    assert shown == {name: found.default for name, found in inspect.signature(Faults).parameters.items()}
