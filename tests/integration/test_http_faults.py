"""A client whose service spoils a fifth of its replies and dies, and which is killed itself: both bills agree."""

import multiprocessing
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from server_process import ServerProcess, running
from torch import Tensor

from reprogram.errors import OracleError
from reprogram.sources.black_box import BlackBox
from reprogram.sources.embedded import embedded_source
from reprogram.sources.encoding import encode
from reprogram.sources.http.open_inference import OpenInference
from reprogram.sources.http.source import HttpSource
from reprogram.sources.ledger import Ledger

CONCURRENCY, PER_REQUEST = 4, 2
KINDS = ("status_429", "status_500", "slow", "reset", "truncated", "wrong_count", "nan", "duplicate")
FAULTS = (*(f"faults.{kind}={0.2 / len(KINDS)}" for kind in KINDS), "faults.seconds=1.5", "faults.seed=3")
SERVER = ("source=embedded", "source.prepare=false", "name=embedded")


def pictures(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")


def boxed(url: str, folder: Path) -> BlackBox:
    adapter = OpenInference("embedded", outputs="log_probabilities", content="files", images_per_request=PER_REQUEST)
    source = HttpSource(
        url, adapter, image_size=(64, 64), concurrency=CONCURRENCY, timeout=1.0, attempts=20, longest_wait=1.0,
        pause=0.5, drift_check=0,
    )  # fmt: skip
    return BlackBox(source, Ledger(folder / "ledger.sqlite", "run"), encoding="png")


def ask(url: str, folder: Path, count: int) -> None:
    """In a process of its own, until it is killed."""
    while True:
        patiently(boxed(url, folder), pictures(count))
        time.sleep(0.1)


def patiently(box: BlackBox, images: Tensor) -> Tensor:
    """As a user does who continues a run: before the first usable answer none is waited for."""
    while True:
        try:
            return box(images)
        except OracleError as error:
            assert "nothing paid for is lost" in str(error)  # noqa: PT017 - any other is a failure


def wait_for(server: ServerProcess, charged: int) -> None:
    deadline = time.monotonic() + 60
    while server.charged() < charged:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def settled(server: ServerProcess) -> int:
    """Charges after all that were under way."""
    charged, since = server.charged(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.05)
        if server.charged() != charged:
            charged, since = server.charged(), time.monotonic()
    return charged


def sums(folder: Path) -> tuple[int, int, int]:
    """Answers stored, images that failed, images in flight."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
        return connection.execute(
            "SELECT (SELECT COUNT(*) FROM answers), (SELECT COALESCE(SUM(charged + unclear), 0) FROM failures), "
            "(SELECT COALESCE(SUM(images), 0) FROM in_flight)"
        ).fetchone()


@pytest.mark.parametrize("count", [240])
def test_nothing_paid_is_lost_when_replies_fail_and_both_sides_are_killed(count: int, tmp_path: Path) -> None:
    images, ledger = pictures(count), Ledger(tmp_path / "ledger.sqlite", "run")
    with running(tmp_path / "server", *SERVER, *FAULTS) as server:
        child = multiprocessing.get_context("spawn").Process(target=ask, args=(server.url, tmp_path, count))
        child.start()
        wait_for(server, count // 4)
        child.kill()
        child.join()
        charged, total = settled(server), ledger.total()
        stored, failed, in_flight = sums(tmp_path)
        assert in_flight <= CONCURRENCY * PER_REQUEST
        assert total == stored + failed + in_flight
        ledger.begin()
        assert charged <= total <= charged + ledger.uncertain

        box, restarted = boxed(server.url, tmp_path), threading.Event()

        def restart() -> None:
            wait_for(server, count // 2)
            server.kill()
            server.start()
            restarted.set()

        threading.Thread(target=restart, daemon=True).start()
        found = patiently(box, images)
        assert restarted.wait(60)
        charged, total = settled(server), ledger.total()
        assert sums(tmp_path)[0] == count
        assert total == count + sums(tmp_path)[1] + in_flight
        assert charged <= total <= charged + ledger.uncertain
        assert ledger.uncertain < total
    expected = embedded_source()(encode(images, "png"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_without_faults_both_bills_are_the_same(tmp_path: Path) -> None:
    images = pictures(60)
    with running(tmp_path / "server", *SERVER) as server:
        box = boxed(server.url, tmp_path)
        first = box(images)
        assert torch.equal(box(images), first)
        assert box.ledger.total() == server.charged() == len(images)
        assert box.ledger.uncertain == 0
