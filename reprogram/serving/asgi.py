"""The bare interface between a server and its application (ASGI): what the layers around the routes speak.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from reprogram.errors import ReprogramError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RefusedError(ReprogramError):
    """A request that gets no scores.

    Args:
        message: What was expected and what was got.
        status: HTTP status of the reply.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def error_body(message: str) -> bytes:
    """The body of every reply that is an error, as the Open Inference Protocol has it."""
    return json.dumps({"error": message}).encode()


async def refuse(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    """Replies with an error."""
    body = error_body(message)
    lengths = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*lengths, *headers]})
    await send({"type": "http.response.body", "body": body})
