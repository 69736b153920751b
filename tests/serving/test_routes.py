"""The way between a route and the worker: what goes into the queue, and what becomes of what comes back."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException
from litserve.utils import LitAPIStatus

from reprogram.serving.asgi import RefusedError
from reprogram.serving.charges import Charges
from reprogram.serving.metrics import Metrics
from reprogram.serving.model import Answer
from reprogram.serving.routes import Routes

ANSWER = Answer(np.array([[-0.5, -1.5]], dtype=np.float32), None)
IMAGES = np.zeros((3, 3, 2, 2), dtype=np.uint8)


class Worker:
    """A queue that is answered as soon as something is put into it."""

    def __init__(self, routes: Routes, *reply: Any) -> None:
        self.routes, self.reply = routes, reply
        self.got: list[Any] = []
        routes.response_buffer, routes.request_queue, routes.response_queue_id = {}, self, 0

    def put(self, request: Any) -> None:
        self.got.append(request)
        waiting = self.routes.response_buffer[request[1]]
        if self.reply:
            waiting.response = pickle.loads(pickle.dumps(self.reply))  # as it comes from another process
            waiting.event.set()
        else:
            self.routes.give_up()


@pytest.fixture
def routes(tmp_path: Path) -> Routes:
    return Routes(Charges(str(tmp_path / "charges")), Metrics(), 1000)


def test_images_are_charged_and_handed_over_and_the_answer_comes_back(routes: Routes, tmp_path: Path) -> None:
    worker = Worker(routes, ANSWER, LitAPIStatus.OK)
    answer = asyncio.run(routes._score(IMAGES))
    assert np.array_equal(answer.scores, ANSWER.scores)
    ((reply_queue, _, _, images),) = worker.got
    assert reply_queue == 0
    assert images is IMAGES
    assert (tmp_path / "charges").read_text() == "3\n"
    assert routes.response_buffer == {}


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        ((b"a pickled error", LitAPIStatus.ERROR), 500, "failed; the server's log says why"),
        ((HTTPException(504, "Request timed out"), LitAPIStatus.ERROR), 504, "waited for the model for too long"),
        ((), 500, "failed; the server's log says why"),
    ],
    ids=["failed", "late", "worker ended"],
)
def test_what_fails_is_refused_and_was_charged(
    reply: Any, status: int, message: str, routes: Routes, tmp_path: Path
) -> None:
    Worker(routes, *reply)
    with pytest.raises(RefusedError, match=message) as caught:
        asyncio.run(routes._score(IMAGES))
    assert caught.value.status == status
    assert (tmp_path / "charges").read_text() == "3\n"
    assert routes.response_buffer == {}


def test_the_worker_gets_nothing_of_the_server(routes: Routes) -> None:
    routes.manager = 7
    assert vars(pickle.loads(pickle.dumps(routes))) == {"api_path": "/classify", "manager": 7}
