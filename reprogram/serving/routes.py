"""What the server answers: both schemas, and what there is to know about it.

LitServe gives an API one route of its own (``api_path``), and several APIs each a process and a copy of the model. A
``LitSpec`` is its way to more: it may declare any number of routes for one API, and puts what they decode into that
API's queue itself, as LitServe's own for OpenAI's protocol do.
"""

import asyncio
import json
import time
import uuid
from importlib.metadata import version
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem
from numpy.typing import NDArray

from reprogram.serving import faults, open_inference
from reprogram.serving.asgi import RefusedError
from reprogram.serving.charges import Charges
from reprogram.serving.image_files import decode
from reprogram.serving.label_scores import labels, number_of_labels
from reprogram.serving.metrics import Metrics
from reprogram.serving.model import Answer, Facts


class Routes(LitSpec):  # type: ignore[misc]  # LitServe has no types
    """The routes of one model.

    Attributes:
        facts: Of the model, once it is loaded.
        manager: Process that keeps LitServe's queues.

    Args:
        charges: What the images that reach the model are charged to.
        metrics: What they are counted in.
        most_bytes: Longest body of a request.
    """

    facts: Facts
    manager: int

    def __init__(self, charges: Charges, metrics: Metrics, most_bytes: int) -> None:
        super().__init__()
        self._charges, self._metrics, self._most_bytes = charges, metrics, most_bytes
        self.api_path = "/classify"  # LitServe names the queue so
        for method, path, endpoint in (
            ("POST", "/classify", self.classify),
            ("GET", "/classes", self.classes),
            ("GET", "/metrics", self.measured),
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/v2/models/{name}", self.model),
            ("GET", "/v2/models/{name}/ready", self.model_ready),
            ("POST", "/v2/models/{name}/infer", self.infer),
        ):
            self.add_endpoint(path, endpoint, [method])

    def __getstate__(self) -> dict[str, Any]:
        """What the worker has to know: nothing of the server's."""
        return {"api_path": self.api_path, "manager": self.manager}

    def setup(self, server: Any) -> None:
        """LitServe's, before it starts the worker."""
        super().setup(server)
        self.manager = server.manager._process.pid

    async def classify(self, request: Request) -> Response:
        """An image file to labels and scores."""
        top_k = number_of_labels(request.query_params.get("top_k"))
        image = await asyncio.to_thread(decode, await self._body(request), self.facts)
        found = labels(await self._ask(image[None], request), self.facts, top_k)
        return Response(json.dumps(found), media_type="application/json")  # JSONResponse fails at NaN

    async def infer(self, name: str, request: Request) -> Response:
        """Images to scores."""
        self._expect(name)
        body, length = await self._body(request), request.headers.get(open_inference.HEADER)
        question = await asyncio.to_thread(open_inference.read, body, length, self.facts)
        answer = await self._ask(question.images, request)
        content, headers = open_inference.write(answer, question, self.facts)
        return Response(content, headers=headers)

    async def classes(self) -> Response:
        """Names in the order of the scores."""
        return JSONResponse(list(self.facts.class_names))

    async def measured(self) -> Response:
        """For Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def server(self) -> Response:
        """What this is."""
        about = {"name": "reprogram", "version": version("reprogram"), "extensions": ["binary_tensor_data"]}
        return JSONResponse(about)

    async def live(self) -> Response:
        """The server runs."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """So does the model: nothing listens before it is loaded, nor after its process has ended."""
        return JSONResponse({"ready": True})

    async def model(self, name: str) -> Response:
        """What goes in and what comes out."""
        self._expect(name)
        return JSONResponse(open_inference.metadata(self.facts))

    async def model_ready(self, name: str) -> Response:
        """As ``ready``."""
        self._expect(name)
        return JSONResponse({"name": name, "ready": True})

    def give_up(self) -> None:
        """Answers all who wait with an error: the worker has ended."""
        for waiting in self.response_buffer.values():
            waiting.response = (None, LitAPIStatus.ERROR)
            waiting.event.set()

    def _expect(self, name: str) -> None:
        if name != self.facts.name:
            raise RefusedError(f"expected the model '{self.facts.name}', got {name!r:.80}", 404)

    async def _body(self, request: Request) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":  # nobody reads the reply, and nothing is to be logged
                raise RefusedError("the client went away before its request was complete", 400)
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most_bytes:
                raise RefusedError(f"expected a body of at most {self._most_bytes} bytes; set max_megabytes", 413)
        return bytes(body)

    async def _ask(self, images: NDArray[Any], request: Request) -> Answer:
        """Asks the model about [n, 3, h, w]."""
        fault, key = request.scope.get(faults.KEY), request.headers.get("idempotency-key")
        answer = await self._score(images, key)
        if fault == "duplicate":
            answer = await self._score(images, key)
        return answer if fault is None else faults.spoil(answer, fault)

    async def _score(self, images: NDArray[Any], key: str | None = None) -> Answer:
        self._charges.charge(len(images), key)
        self._metrics.asked(len(images))
        identity, waiting = str(uuid.uuid4()), ResponseBufferItem(asyncio.Event())
        self.response_buffer[identity] = waiting
        try:
            self.request_queue.put((self.response_queue_id, identity, time.monotonic(), images))
            await waiting.event.wait()
        finally:
            del self.response_buffer[identity]
        response, status = waiting.response
        if status != LitAPIStatus.OK:
            code = getattr(response, "status_code", 500)  # LitServe's own: it waited for too long
            reason = "waited for the model for too long" if code == 504 else "failed; the server's log says why"
            raise RefusedError(f"the request {reason}", code)
        answer: Answer = response
        return answer
