"""The one process that holds the model: LitServe starts it, and hands it the images of several requests at a time."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from litserve import LitAPI
from litserve.loops import BatchedLoop
from litserve.specs.base import LitSpec
from litserve.utils import configure_logging
from numpy.typing import NDArray

from reprogram.errors import ReprogramError
from reprogram.serving.model import Answer, Choice, Model


class Scoring(LitAPI):  # type: ignore[misc]  # LitServe has no types
    """Scores the images of requests together.

    Args:
        choice: What is loaded, in the worker's process.
        told: Gets the ``Facts`` of the model, or a text of why there is none.
        spec: The routes, which fill the queue.
        max_batch_size: Most requests of one batch, >= 1; each may have several images.
        batch_timeout: How long the first request of a batch waits for others (seconds), >= 0; 0: those that wait
            already are taken along.
    """

    def __init__(
        self, choice: Choice, told: Connection, spec: LitSpec, max_batch_size: int = 8, batch_timeout: float = 0.0
    ) -> None:
        super().__init__(max_batch_size, batch_timeout, loop=WaitingLoop(), spec=spec)
        self._choice, self._told = choice, told
        self._model: Model | None = None

    def setup(self, device: str) -> None:
        """Loads the model, and says so."""
        threading.Thread(target=_end_with_parent, args=(self.spec.manager,), daemon=True).start()
        configure_logging("WARNING", stream=sys.stderr)
        try:
            self._model = self._choice.load(device)
            height, width = self._model.facts.image_size
            with torch.inference_mode():
                self._model.score(torch.full((1, 3, height, width), 0.5, device=device))  # what fails, fails now
        except ReprogramError as error:
            configure_logging(logging.CRITICAL + 1, stream=sys.stderr)  # LitServe would print the traceback
            self._told.send(str(error))
            raise
        self._told.send(self._model.facts)

    def decode_request(self, request: NDArray[Any]) -> NDArray[Any]:
        """The routes have decoded it."""
        return request

    def batch(self, inputs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """As they are: each has a number of images of its own."""
        return inputs

    def predict(self, x: Sequence[NDArray[Any]]) -> list[Answer]:
        """Images of several requests, each [n, 3, h, w], uint8 or float32 in [0, 1], to as many answers."""
        assert self._model is not None
        images = torch.cat([_floats(one) for one in x]).to(self.device)
        with torch.inference_mode():
            parts = [self._model.score(part) for part in torch.split(images, self._model.at_once)]
        scores = np.concatenate([scores.float().cpu().numpy() for scores, _ in parts])
        decided = [choice.cpu().numpy() for _, choice in parts if choice is not None]
        ends = np.cumsum([len(one) for one in x])[:-1]
        choices = np.split(np.concatenate(decided), ends) if decided else [None] * len(x)
        return [Answer(*pair) for pair in zip(np.split(scores, ends), choices, strict=True)]

    def encode_response(self, output: Answer) -> Answer:
        """The routes encode it."""
        return output


class WaitingLoop(BatchedLoop):  # type: ignore[misc]
    """Takes what waits in the queue, and sleeps while nothing does.

    LitServe's own loop never sleeps: it asks the queue a thousand times a second, or all the time.
    """

    def get_batch_requests(
        self, lit_api: LitAPI, request_queue: Any, transport: object
    ) -> tuple[list[tuple[int, str, Any]], list[tuple[int, str]]]:
        """Requests as (queue of the reply, id, images); and those (without images) that have waited for too long."""
        del transport
        taken, late, end = list[tuple[int, str, Any]](), list[tuple[int, str]](), None
        while len(taken) < lit_api.max_batch_size:
            patience = 1.0 if end is None else max(0.0, end - time.monotonic())
            try:
                request = self.get_request(request_queue, timeout=patience)
            except (ConnectionError, EOFError):  # the process that keeps the queue has ended
                sys.exit(1)
            if request is None:
                break
            reply_queue, identity, since, images = request
            now = time.monotonic()
            end = now + lit_api.batch_timeout if end is None else end
            if now - since > lit_api.request_timeout:
                late.append((reply_queue, identity))
            else:
                taken.append((reply_queue, identity, images))
        return taken, late


def _floats(images: NDArray[Any]) -> torch.Tensor:
    pixels = torch.tensor(images)
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def _end_with_parent(manager: int) -> None:
    """Ends this process, and the one that keeps LitServe's queues, when the server was killed and could not do so."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    with suppress(OSError):
        os.kill(manager, signal.SIGTERM)
    os._exit(1)
