"""What the server has done, in the text format of Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from reprogram.serving.asgi import App, Message, Receive, Scope, Send


class Metrics:
    """Counts requests, errors and images, and measures how long replies take."""

    def __init__(self) -> None:
        kept = self._registry = CollectorRegistry()  # not the library's own, which counts this process's memory as well
        self._requests = Counter("reprogram_requests", "Requests by route.", ("path", "status"), registry=kept)
        self._errors = Counter("reprogram_errors", "Replies with a status of 400 or more.", ("path",), registry=kept)
        self._images = Counter("reprogram_images", "Images handed to the model.", registry=kept)
        self._seconds = Histogram("reprogram_request_seconds", "From request to reply.", ("path",), registry=kept)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """After a reply; ``path``: the route as it was declared, so that there are few of them."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        if status >= 400:
            self._errors.labels(path).inc()

    def asked(self, images: int) -> None:
        """When so many images go to the model."""
        self._images.inc(images)

    def text(self) -> bytes:
        """All of it, for ``GET /metrics``."""
        return generate_latest(self._registry)


class Measured:
    """Tells the metrics of every request.

    Args:
        app: What lies behind.
        metrics: Who is told.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and takes its time."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            path = getattr(scope.get("route"), "path", "none")  # the router leaves the route that it took in the scope
            self._metrics.answered(path, status, time.perf_counter() - start)
