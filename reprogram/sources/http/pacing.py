"""How fast requests may leave: rate limits, and pauses when the service asks for them or fails again and again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Pace:
    """Spaces requests evenly, and holds all of them back during a pause; for one event loop.

    Args:
        requests_per_second: Most; ``None``: no limit.
        images_per_second: Most; ``None``: no limit.
        pause_after: Failed attempts in a row, of all requests, after which sending pauses (a circuit breaker).
        pause: Seconds of such a pause. The first failure after it begins the next one.
    """

    def __init__(
        self, requests_per_second: float | None, images_per_second: float | None, pause_after: int, pause: float
    ) -> None:
        self._by_request, self._by_image = (
            0.0 if rate is None else 1 / rate for rate in (requests_per_second, images_per_second)
        )
        self._pause_after, self._pause = pause_after, pause
        self._next = self._paused_until = 0.0
        self._failures = 0

    async def turn(self, images: int, sleep: Callable[[float], Awaitable[bool]]) -> None:
        """Returns when a request of so many images may leave, or ``sleep`` says that none may any more."""
        clock = asyncio.get_running_loop().time
        moment = max(clock(), self._next)
        self._next = moment + max(self._by_request, images * self._by_image)  # its place in the row is taken now
        while (wait := max(moment, self._paused_until) - clock()) > 0:
            if await sleep(wait):
                return

    def succeeded(self) -> None:
        """After an answer."""
        self._failures = 0

    def failed(self, wait: float | None) -> None:
        """After a failed attempt; ``wait``: seconds that the service asks for."""
        now = asyncio.get_running_loop().time()
        self._failures += 1
        if wait is not None:
            self._paused_until = max(self._paused_until, now + wait)
        if self._failures >= self._pause_after and self._paused_until < now + self._pause:
            self._failures = self._pause_after - 1
            self._paused_until = now + self._pause
            log.warning("%d attempts in a row failed: sending pauses for %g s", self._pause_after, self._pause)
