"""Starts the server: the model in a process of its own, the routes in this one."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import uvicorn
from fastapi import FastAPI, Request, Response
from litserve import LitServer
from litserve.utils import configure_logging, wrap_litserve_start

from reprogram.errors import ConfigError, ReprogramError, SourceError
from reprogram.serving.asgi import App, error_body
from reprogram.serving.charges import Charges
from reprogram.serving.faults import Faults, FaultyReplies
from reprogram.serving.key import KeyGuard, read_key
from reprogram.serving.metrics import Measured, Metrics
from reprogram.serving.model import Choice, Facts
from reprogram.serving.routes import Routes
from reprogram.serving.worker import Scoring

log = logging.getLogger(__name__)

GRACE = 10
"""Seconds that requests under way have when the server is asked to end."""

IDLE = 60
"""Seconds after which an idle connection is closed: clients do it sooner, so none loses a request that way."""


def serve(
    choice: Choice,
    faults: Faults,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch_size: int = 8,
    batch_timeout: float = 0.0,
    timeout: float = 30.0,
    max_megabytes: float = 64.0,
    key_env: str | None = None,
    charges: str | None = None,
    device_type: str = "cpu",
) -> None:
    """Serves a model until it is told to end by SIGINT or SIGTERM.

    Args:
        choice: What is served.
        faults: What is to go wrong.
        host: Address to listen at; 0.0.0.0: at all of this machine.
        port: 0: any that is free.
        max_batch_size: See ``Scoring``.
        batch_timeout: See ``Scoring``.
        timeout: How long a request may wait for the model (seconds).
        max_megabytes: Longest body of a request (1e6 bytes).
        key_env: Name of the environment variable with the key; ``None``: whoever reaches the server may ask.
        charges: File for what is charged; ``None``: none.
        device_type: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If a value is out of range, nobody can listen there, or the model cannot be loaded.
        SourceError: If the worker ends.
    """
    _check(port, max_batch_size, batch_timeout, timeout, max_megabytes)
    key = read_key(key_env)
    metrics, bill = Metrics(), Charges(charges)
    _bound(host, port).close()  # refuses an address before the model is loaded
    told, tell = get_context("spawn").Pipe(duplex=False)
    routes = Routes(bill, metrics, int(max_megabytes * 1e6))
    configure_logging("WARNING", stream=sys.stderr)
    scoring = Scoring(choice, tell, routes, max_batch_size, batch_timeout)
    server = LitServer(scoring, device_type, devices=1, timeout=timeout, disable_openapi_url=True)
    app = Measured(_application(server), metrics)
    guarded: App = app if key is None else KeyGuard(app, key)
    if faults:
        log.warning("replies go wrong on purpose, at the rates of faults.*")
        guarded = FaultyReplies(guarded, faults)
    with _worker(server) as worker:
        routes.facts = _facts(told, worker)
        # Not before: the manager that LitServe has forked would keep it open, and the port taken, after this process.
        bound = _bound(host, port)
        line = _line(bound, routes.facts)
        config = uvicorn.Config(
            guarded,
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=GRACE,
        )
        listening = _Listening(config, worker, routes, line)
        listening.run([bound])
        if listening.worker_ended:
            raise SourceError("the process of the model has ended; what it said stands above; start the server again")


class _Listening(uvicorn.Server):
    """Listens until a signal comes or the worker ends."""

    def __init__(self, config: uvicorn.Config, worker: BaseProcess, routes: Routes, line: str) -> None:
        super().__init__(config)
        self.worker_ended = False
        self._worker, self._routes, self._line = worker, routes, line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that it listens."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._worker.sentinel, self._end)
        print(self._line, flush=True)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._worker.sentinel)
        self.worker_ended = self.should_exit = True
        self._routes.give_up()


def _application(server: LitServer) -> FastAPI:
    """LitServe's application, with errors as JSON."""
    app: FastAPI = server.app
    app.user_middleware.clear()  # gzip, which takes more time than numbers in JSON do on their way

    async def refused(request: Request, error: Exception) -> Response:
        del request
        return Response(error_body(str(error)), getattr(error, "status", 400), media_type="application/json")

    async def failed(request: Request, error: Exception) -> Response:
        del request, error
        return Response(error_body("the server failed; its log says why"), 500, media_type="application/json")

    app.add_exception_handler(ReprogramError, refused)
    app.add_exception_handler(Exception, failed)
    return app


@contextmanager
def _worker(server: LitServer) -> Iterator[BaseProcess]:
    """The process of the model, as long as it is needed; SIGINT and SIGTERM end the block without a word.

    ``LitServer.run`` would fork the HTTP server as well, leave all processes behind on SIGTERM, and take few addresses.
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # in the processes started now as well: a terminal sends it to all
    try:
        with wrap_litserve_start(server):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            (worker,) = server.inference_workers
            yield worker
    except KeyboardInterrupt:
        pass
    except (ConnectionError, EOFError):  # a service manager sends SIGTERM to all, and LitServe's manager was faster
        pass
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _facts(told: Connection, worker: BaseProcess) -> Facts:
    """What the worker has loaded."""
    wait([told, worker.sentinel])
    said = told.recv() if told.poll() else None
    if isinstance(said, str):
        raise ConfigError(said)
    if not isinstance(said, Facts):
        raise SourceError("the process of the model has ended before it was loaded; what it said stands above")
    return said


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"host, port: cannot listen at {host}:{port} ({error.strerror}); choose another") from error
    return bound


def _line(bound: socket.socket, facts: Facts) -> str:
    host, port = bound.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    size = "any size" if facts.resizes else "{}x{} pixels".format(*facts.image_size)
    return (
        f"{url} serves {facts.name}: {len(facts.class_names)} classes, images of {size}; "
        f"POST /classify, POST /v2/models/{facts.name}/infer; GET /classes, /v2/models/{facts.name}, /metrics"
    )


def _check(port: int, max_batch_size: int, batch_timeout: float, timeout: float, max_megabytes: float) -> None:
    """Refuses numbers that come from the command line as they are."""
    for name, value, kind, low, high in (
        ("port", port, int, 0, 65535),
        ("max_batch_size", max_batch_size, int, 1, 100_000),
        ("timeout", timeout, int | float, 0.001, 86400),
        ("batch_timeout", batch_timeout, int | float, 0, timeout),
        ("max_megabytes", max_megabytes, int | float, 0.001, 10_000),
    ):
        if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name}: expected {what} in {low}..{high}, got {value!r}")
