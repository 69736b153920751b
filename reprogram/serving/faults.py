"""Spoils replies on purpose, at set rates: for tests and rehearsals of whoever asks."""

import asyncio
import random

import numpy as np

from reprogram.errors import ConfigError
from reprogram.serving.asgi import App, Message, Receive, Scope, Send, refuse
from reprogram.serving.model import Answer

OF_SCORES = frozenset({"wrong_count", "nan", "duplicate"})  # carried out by the routes, which know what a score is
KEY = "reprogram.fault"  # of the scope that these find theirs in


class Faults:
    """At which rates replies to questions (``POST``) go wrong; a reply has one fault at most.

    The i-th question gets the i-th draw of a seeded generator. All faults but ``status_429`` befall the reply: by then
    the model has been asked, and the images are charged.

    Args:
        status_429: Too many requests, with ``Retry-After: 1``; the model is not asked.
        status_500: A server error.
        slow: The reply comes later.
        reset: The connection is closed without a reply.
        truncated: The connection is closed in the middle of the body.
        wrong_count: One class is missing.
        nan: A score is not a number: the largest one of the first image.
        duplicate: The question arrives twice: the model is asked twice, one reply goes out; charged twice unless it
            has an ``Idempotency-Key``.
        seed: Of the draws, >= 0.
        seconds: Of ``slow``, >= 0.

    Raises:
        ConfigError: If a rate is outside [0, 1], all together are above 1, or another value is negative.
    """

    def __init__(
        self,
        status_429: float = 0.0,
        status_500: float = 0.0,
        slow: float = 0.0,
        reset: float = 0.0,
        truncated: float = 0.0,
        wrong_count: float = 0.0,
        nan: float = 0.0,
        duplicate: float = 0.0,
        seed: int = 0,
        seconds: float = 2.0,
    ) -> None:
        rates = {"status_429": status_429, "status_500": status_500, "slow": slow, "reset": reset}
        rates |= {"truncated": truncated, "wrong_count": wrong_count, "nan": nan, "duplicate": duplicate}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ConfigError(f"faults.{name}: expected a rate in [0, 1], got {rate}")
        if sum(rates.values()) > 1 + 1e-9:
            raise ConfigError(f"faults: expected rates of a sum of at most 1, got {sum(rates.values()):g}; lower them")
        if seed < 0:
            raise ConfigError(f"faults.seed: expected a whole number >= 0, got {seed}")
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"faults.seconds: expected a number >= 0, got {seconds}")
        self.seconds = seconds
        self._rates, self._generator = rates, random.Random(seed)

    def __bool__(self) -> bool:
        """Whether anything may go wrong."""
        return any(self._rates.values())

    def draw(self) -> str | None:
        """The fault of the next reply."""
        at = self._generator.random()
        for name, rate in self._rates.items():
            if at < rate:
                return name
            at -= rate
        return None


class FaultyReplies:
    """Spoils the replies of an application; the outermost layer, since it reaches for the connection.

    Args:
        app: What lies behind.
        faults: What goes wrong how often.
    """

    def __init__(self, app: App, faults: Faults) -> None:
        self._app, self._faults = app, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and its reply or something worse back."""
        asked = scope["type"] == "http" and scope["method"] == "POST"
        fault = self._faults.draw() if asked else None
        if fault == "status_429":
            await refuse(send, 429, "too many requests (a fault on purpose)", (b"retry-after", b"1"))
        elif fault is None or fault in OF_SCORES:
            await self._app(scope if fault is None else {**scope, KEY: fault}, receive, send)
        else:
            held: list[Message] = []

            async def hold(message: Message) -> None:
                held.append(message)

            await self._app(scope, receive, hold)
            await self._spoil(fault, held, receive, send)

    async def _spoil(self, fault: str, held: list[Message], receive: Receive, send: Send) -> None:
        if fault == "status_500":
            await refuse(send, 500, "the server failed (a fault on purpose)")
            return
        if fault == "slow":
            await asyncio.sleep(self._faults.seconds)
            for message in held:
                await send(message)
            return
        if fault == "truncated":
            body = b"".join(message.get("body", b"") for message in held)
            await send(held[0])
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        await _hang_up(send, receive, at_once=fault == "reset")


def spoil(answer: Answer, fault: str) -> Answer:
    """What a fault of scores makes of an answer."""
    if fault == "wrong_count":
        return answer._replace(scores=answer.scores[:, :-1])
    if fault == "nan":
        scores = answer.scores.copy()
        scores[0, scores[0].argmax()] = np.nan
        return answer._replace(scores=scores)
    return answer


async def _hang_up(send: Send, receive: Receive, at_once: bool) -> None:
    """Closes the connection under a reply that is not complete; ``at_once``: drops what has not been sent yet.

    ASGI has no word for it, so the transport of uvicorn's connection is taken, whose method ``send`` is.
    """
    transport = getattr(send, "__self__").transport  # noqa: B009 - a callable has no such attribute for the type checker
    if at_once:
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":  # until uvicorn knows; it would reply or complain otherwise
        pass
