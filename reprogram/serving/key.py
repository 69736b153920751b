"""Lets in only who has the key."""

import os
import secrets

from reprogram.errors import ConfigError
from reprogram.serving.asgi import App, Receive, Scope, Send, refuse

OPEN_PATHS = frozenset({"/health", "/v2/health/live", "/v2/health/ready"})  # asked by machines that watch over others


def read_key(name: str | None) -> str | None:
    """The key that lies in the environment variable of this name; ``None``: no key is asked for.

    Raises:
        ConfigError: If there is no such variable, or it is empty. What was given is not repeated: it may be the key.
    """
    if name is None:
        return None
    key = os.environ.get(name, "")
    if not key:
        raise ConfigError("key_env: expected the NAME of an environment variable that is set and not empty; export it")
    return key


class KeyGuard:
    """Refuses requests (401) without ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, but those about health.

    Args:
        app: What lies behind.
        key: The key.
    """

    def __init__(self, app: App, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        message = "expected the key of this server in Authorization: Bearer KEY, or in X-API-Key"
        await refuse(send, 401, message, (b"www-authenticate", b"Bearer"))

    def _has_key(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = (bearer.strip() if kind.lower() == b"bearer" else b"", headers.get(b"x-api-key", b""))
        return any([secrets.compare_digest(each, self._key) for each in given])  # both, however the first compares
