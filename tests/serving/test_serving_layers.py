"""What stands around the routes: the key, the metrics, the bill."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reprogram.errors import ConfigError
from reprogram.serving.asgi import App
from reprogram.serving.charges import Charges
from reprogram.serving.key import KeyGuard, read_key
from reprogram.serving.metrics import Measured, Metrics


def ask(app: App, path: str = "/classify", *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    """What an application sends in reply to one request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    asyncio.run(app({"type": "http", "method": "POST", "path": path, "headers": list(headers)}, receive, send))
    return sent


async def fine(scope: Any, receive: Any, send: Any) -> None:
    scope["route"] = SimpleNamespace(path="/v2/models/{name}")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"authorization", b"Bearer s3cret")], 200),
        ([(b"authorization", b"bearer s3cret")], 200),
        ([(b"x-api-key", b"s3cret")], 200),
        ([(b"authorization", b"Bearer other"), (b"x-api-key", b"s3cret")], 200),
        ([], 401),
        ([(b"authorization", b"s3cret")], 401),
        ([(b"authorization", b"Basic s3cret")], 401),
        ([(b"authorization", b"Bearer s3cre")], 401),
        ([(b"x-api-key", b"s3cret2")], 401),
        ([(b"x-api-key", b"")], 401),
        ([(b"x-api-key", b"\xff")], 401),
    ],
)
def test_only_the_key_opens(headers: list[tuple[bytes, bytes]], status: int) -> None:
    sent = ask(KeyGuard(fine, "s3cret"), "/classify", *headers)
    assert sent[0]["status"] == status
    if status == 401:
        assert "Authorization: Bearer KEY" in json.loads(sent[1]["body"])["error"]
        assert b"s3cret" not in sent[1]["body"]
        assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]


@pytest.mark.parametrize("path", ["/health", "/v2/health/live", "/v2/health/ready"])
def test_health_is_for_all(path: str) -> None:
    assert ask(KeyGuard(fine, "s3cret"), path)[0]["status"] == 200


def test_the_key_is_read_from_the_environment_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORING_KEY", "s3cret")
    assert read_key("SCORING_KEY") == "s3cret"
    assert read_key(None) is None
    assert "s3cret" not in repr(KeyGuard(fine, "s3cret"))
    monkeypatch.setenv("SCORING_KEY", "")
    for name in ("SCORING_KEY", "s3cret"):  # the second: the key itself where its variable's name belongs
        with pytest.raises(ConfigError, match="key_env: expected the NAME") as caught:
            read_key(name)
        assert "s3cret" not in str(caught.value)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by name and labels."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


def test_requests_errors_and_images_are_counted() -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    metrics = Metrics()
    ask(Measured(fine, metrics))
    ask(Measured(fine, metrics))
    ask(Measured(refusing, metrics), "/any/path/of/anyone")
    metrics.asked(5)
    assert samples(metrics) == {
        ("reprogram_requests_total", "/v2/models/{name}", "200"): 2,
        ("reprogram_requests_total", "none", "404"): 1,
        ("reprogram_errors_total", "none"): 1,
        ("reprogram_images_total",): 5,
        ("reprogram_request_seconds_count", "/v2/models/{name}"): 2,
        ("reprogram_request_seconds_count", "none"): 1,
    }


def test_a_request_that_fails_is_counted_as_an_error() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    metrics = Metrics()
    with pytest.raises(ZeroDivisionError):
        ask(Measured(failing, metrics))
    assert samples(metrics)["reprogram_requests_total", "none", "500"] == 1


def test_charges_are_in_the_file_at_once_and_behind_older_ones(tmp_path: Path) -> None:
    file = tmp_path / "charges.txt"
    file.write_text("7\n")
    charges = Charges(str(file))
    charges.charge(3)
    assert file.read_text() == "7\n3\n"
    charges.charge(12)
    assert file.read_text() == "7\n3\n12\n"
    Charges(None).charge(1)


def test_a_request_that_comes_twice_under_one_key_is_charged_once(tmp_path: Path) -> None:
    file = tmp_path / "charges.txt"
    charges = Charges(str(file))
    for images, key in ((2, "a"), (2, "a"), (5, "b"), (2, "a"), (3, None), (3, None)):
        charges.charge(images, key)
    assert file.read_text() == "2\n5\n3\n3\n"


def test_charges_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"charges: cannot write .*nowhere/x: No such file"):
        Charges(str(tmp_path / "nowhere" / "x"))
