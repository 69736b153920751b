"""What can go wrong with one attempt: whether another may help, whether it is charged, and what to tell the user."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from reprogram.errors import OracleError
from reprogram.sources.http.adapter import excerpt

RETRIED = (408, 425, 429)  # and all of 5xx

TRANSPORT = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What aiohttp raises; ValueError: for what cannot be sent."""
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)

ADVICE = {
    401: "the key is missing or wrong: see to the environment variable that source.key_env names",
    403: "the key does not allow this: see to the environment variable that source.key_env names, and to its rights",
    404: "there is no such address: see to source.url and to the names in source.adapter",
    405: "the address takes no such request: see to source.url",
    413: "the images are too large: fewer in one request, or access.encoding=jpeg",
    415: "it does not take this type: see to access.encoding",
    422: "it does not understand the request: see to source.adapter and source.image_size",
}


@dataclass(eq=False)
class Failure(OracleError):  # noqa: N818 - one attempt, not yet the error of a run
    """An attempt without a usable answer.

    Args:
        what: For the user; holds no secret.
        again: Whether another attempt may help.
        charged: Whether the images are paid for; ``None``: unknown.
        wait: Seconds that the service asks to wait; ``None``: it does not say.
        reached: Whether the service is known to be there; else a second attempt is the last.
    """

    what: str
    again: bool
    charged: bool | None
    wait: float | None = None
    reached: bool = True

    def __str__(self) -> str:
        """For the user."""
        return self.what


def of_transport(error: Exception) -> Failure:
    """No reply came, or none that can be unpacked."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Failure(
            f"no secure connection ({what}): see to source.url; for a certificate of your own set source.ca_file",
            again=False,
            charged=False,
        )
    if isinstance(error, ValueError):
        return Failure(f"{what}: see to source.url and source.key_header", again=False, charged=False)
    unsent = isinstance(error, UNSENT)
    remedy = "is source.url right, and the service up?" if unsent else "raise source.timeout if it is slow"
    return Failure(f"no reply ({what}): {remedy}", again=True, charged=False if unsent else None, reached=not unsent)


def of_status(
    status: int, headers: Mapping[str, str], content: bytes, free: tuple[int, ...], proven: bool
) -> Failure | None:
    """A reply that says itself that it has no answer.

    Args:
        status: Of the reply.
        headers: Of the reply.
        content: Its body, without secrets.
        free: Statuses that are not charged.
        proven: Whether there were answers before.
    """
    if 200 <= status < 300:
        kind = headers.get("content-type", "")
        if "html" in kind or content[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return Failure(
                f"expected scores, got a web page ({excerpt(content)}): see to source.url",
                again=proven,
                charged=False,
            )
        return None
    if 300 <= status < 400:
        place = headers.get("location", "nowhere")
        return Failure(
            f"it sends elsewhere ({status}, {place}), which is refused, as images go to source.url alone: if that is "
            "the right place, set it",
            again=False,
            charged=False,
        )
    again = status in RETRIED or status >= 500
    advice = f": {ADVICE[status]}" if status in ADVICE else ""
    return Failure(
        f"status {status} ({excerpt(content)}){advice}",
        again,
        charged=False if status < 500 or status in free else None,
        wait=_retry_after(headers.get("retry-after")),
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header: a number of them, or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
