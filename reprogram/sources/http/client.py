"""Requests to one host: concurrent, paced, tried again, and nothing sent that the account does not know of."""

import asyncio
import json
import random
import ssl
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from reprogram.errors import OracleError, QueryBudgetExceeded
from reprogram.sources.http import failures
from reprogram.sources.http.adapter import Reply, Request, UnusableReply
from reprogram.sources.http.addresses import joined
from reprogram.sources.http.failures import Failure
from reprogram.sources.http.pacing import Pace
from reprogram.sources.remote import Account

T = TypeVar("T")

HEADERS = {"Accept-Encoding": "gzip, deflate", "User-Agent": f"reprogram aiohttp/{aiohttp.__version__}"}
KEPT_OPEN = 5.0  # seconds that a connection waits for its next request
LARGEST = 2**28  # bytes of a reply; scores of a thousand images and classes as text are a tenth of that

FIRST_WAIT = 0.5  # seconds before the second attempt, doubled each time, at random between that and its half
LONGEST_ASKED = 3600.0  # a service that wants more patience than these seconds is not waited for


class _Stopped(Exception):  # noqa: N818 - no error: another request ended the question
    """Nothing more is to be sent."""


class Client:
    """One event loop in a thread of its own; its methods block.

    Args:
        url: Where requests go, and nothing else does: redirects and proxies of the environment are refused.
        headers: Of every request, the key among them.
        secret: Never to be shown; it is blotted out where a reply repeats it.
        concurrency: Most requests under way, >= 1.
        pace: When they may leave.
        timeout: Seconds of an attempt, at most half of them to connect.
        attempts: Of one request, >= 1.
        longest_wait: Seconds between two of them, at most.
        free: Statuses of replies that are not charged.
        verify: Certificates to trust.
        proxy: Address of one, or none.

    Attributes:
        described: Whether the service has said, fittingly, what it is: then a first answer that cannot be used may be a
            spoiled one, and is asked for once more; else it never will fit.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        secret: str | None,
        concurrency: int,
        pace: Pace,
        timeout: float,
        attempts: int,
        longest_wait: float,
        free: tuple[int, ...],
        verify: ssl.SSLContext,
        proxy: str | None = None,
    ) -> None:
        self.url, self._secret = url, secret
        self._pace, self._attempts, self._longest_wait, self._free = pace, attempts, longest_wait, free
        self._proven = self.described = False  # proven: whether there was ever a usable answer
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._desk = asyncio.Lock()
        self._headers, self._verify, self._proxy = {**HEADERS, **headers}, verify, proxy
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=timeout / 2)
        self._session: aiohttp.ClientSession | None = None
        self._concurrency = concurrency
        threading.Thread(target=self._run, name="reprogram-http", daemon=True).start()

    def ask(self, request: Request) -> Reply:
        """One request without images, tried again like all.

        Raises:
            OracleError: If no reply of success came.
        """
        return self._wait_for(self._tried(self._exchange, request))

    def send(
        self,
        requests: Sequence[tuple[Callable[[], Request], Sequence[int]]],
        account: Account,
        read: Callable[[Reply, Sequence[int]], list[bytes]],
        apart: bool,
    ) -> list[bytes]:
        """Sends requests, each with the rows of its images, and books what they cost and what came back.

        The first of all goes alone: a wrong key or address is found out before others follow it.

        Args:
            requests: Each is made when its turn comes, so that not all files lie in memory.
            account: Hears of each attempt.
            read: Answers, as they are to be kept, from a reply and its rows; refuses with ``UnusableReply``.
            apart: Whether to make requests in other threads: worth it where that takes a millisecond.

        Returns:
            The answers of all rows, in the order of the rows.

        Raises:
            OracleError: If a request failed for good.
            QueryBudgetExceeded: Of the account.
        """
        self._stop.clear()
        return self._wait_for(self._all(requests, account, read, apart))

    def close(self) -> None:
        """Has its thread close the connections and end; waits for nothing, since a garbage collector may call this."""
        with suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _all(self, requests: Any, account: Account, read: Any, apart: bool) -> list[bytes]:
        answers: dict[int, bytes] = {}

        async def work(requests: Iterable[tuple[Awaitable[Request], Sequence[int]]]) -> None:
            try:
                for request, rows in requests:  # each is kept between attempts: in an outage no others follow
                    found = await self._tried(self._booked, await request, rows, account, read)
                    answers.update(zip(rows, found, strict=True))
            except BaseException:
                self._stop.set()  # the others finish what they have sent, and send nothing more
                raise

        made = self._made_ahead(requests) if apart else ((_made(make), rows) for make, rows in requests)
        if not self._proven:
            await work(islice(made, 1))
        workers = (work(made) for _ in range(self._concurrency))
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
        errors = [found for found in outcomes if isinstance(found, BaseException)]
        for error in sorted(errors, key=lambda error: isinstance(error, _Stopped)):
            raise error
        return [answers[row] for row in sorted(answers)]

    def _made_ahead(self, requests: Any) -> Iterator[tuple[Awaitable[Request], Sequence[int]]]:
        """Makes as many as can be under way while others are."""
        begun = deque[tuple[Awaitable[Request], Sequence[int]]]()
        for make, rows in requests:
            begun.append((self._loop.run_in_executor(None, make), rows))
            if len(begun) > self._concurrency:
                yield begun.popleft()
        yield from begun

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._hang_up())
        self._loop.close()

    async def _hang_up(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _booked(
        self,
        request: Request,
        rows: Sequence[int],
        account: Account,
        read: Callable[[Reply, Sequence[int]], list[bytes]],
    ) -> list[bytes]:
        """One attempt, in the account before it leaves and after it came back."""
        await self._pace.turn(len(rows), self._sleep)
        if self._stop.is_set():
            raise _Stopped
        account.sent(len(rows))
        answers: list[bytes] | None = None
        try:
            reply = await self._exchange(request)
            async with self._desk:  # one after the other: the next request of each leaves before all are read
                try:
                    answers = read(reply, rows)
                except UnusableReply as error:
                    again = self._proven or self.described
                    raise Failure(str(error), again, charged=True, reached=self._proven) from error
                account.answered(rows, answers)
                await asyncio.sleep(0)
        except Exception as error:
            if answers is None:  # else it is the account that failed: the images stay in flight, as after a crash
                account.failed(len(rows), error.charged if isinstance(error, Failure) else None)
            raise
        self._proven = True
        self._pace.succeeded()
        return answers

    async def _exchange(self, request: Request) -> Reply:
        # a key of its own for each attempt: a proxy that repeats a request is found out, we never ask for less
        headers = {**request.headers, "Idempotency-Key": uuid.uuid4().hex}
        try:
            async with self._open().request(
                request.method,
                joined(self.url, request.path),
                data=request.content or None,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                content = self._blotted_bytes(await _whole(response))
                found = failures.of_status(response.status, response.headers, content, self._free, self._proven)
        except failures.TRANSPORT as error:
            found = failures.of_transport(error)
            found.what = self._blotted(found.what)
            raise found from error
        if found is not None:
            found.what = self._blotted(found.what)
            raise found
        return Reply(content, response.headers)

    def _open(self) -> aiohttp.ClientSession:
        """Made within the loop. It keeps no cookies, and asks nothing of the environment."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._verify, keepalive_timeout=KEPT_OPEN),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=self._timeout,
            )
        return self._session

    async def _tried(self, attempt: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T:
        retrying = AsyncRetrying(
            stop=self._gives_up,
            retry=retry_if_exception(self._may_help),
            wait=self._wait,
            sleep=self._rest,
            reraise=True,
        )
        return await retrying(attempt, *arguments)

    def _gives_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        patient = self._proven or (isinstance(error, Failure) and error.reached)
        return state.attempt_number >= (self._attempts if patient else min(2, self._attempts))

    def _may_help(self, error: BaseException) -> bool:
        if not isinstance(error, Failure):
            return False
        patient = (error.wait or 0) <= LONGEST_ASKED
        self._pace.failed(error.wait if patient else None)
        return error.again and patient and not self._stop.is_set()

    def _wait(self, state: RetryCallState) -> float:
        doubled: float = min(self._longest_wait, FIRST_WAIT * 2 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.wait if isinstance(error, Failure) and error.wait is not None else 0.0
        return max(asked, doubled * random.uniform(0.5, 1))

    async def _rest(self, seconds: float) -> None:
        await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> bool:
        """Whether the question ended meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    def _blotted(self, text: str) -> str:
        for form in (self._secret, json.dumps(self._secret)[1:-1]) if self._secret else ():
            text = text.replace(form, "***")
        return text

    def _blotted_bytes(self, content: bytes) -> bytes:
        return self._blotted(content.decode("latin-1")).encode("latin-1") if self._secret else content

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except (OracleError, QueryBudgetExceeded):
            raise
        except BaseException:  # Ctrl-C: what is under way is paid for, and its answers are kept
            self._loop.call_soon_threadsafe(self._stop.set)
            future.exception()
            raise


async def _made(make: Callable[[], Request]) -> Request:
    return make()


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The body, if it has an end within reason."""
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > LARGEST:
            raise Failure(f"expected scores, got more than {LARGEST:,} bytes: see to source.url", False, charged=True)
    return bytes(content)
