"""A scoring service that takes a fixed time for an image: the limit that a client is measured against.

    python scripts/timed_stub.py CLASSES MILLISECONDS

It speaks as much of the Open Inference Protocol as ``source=http`` needs, over HTTP/1.1 that stays open, and prints its
port. Every connection is served by itself: the reply to a request of n images leaves n times the milliseconds after the
request's last byte came. ``GET /served`` says how long that took really (the mean, in seconds), and how many requests
there were; then it counts anew.
"""

import asyncio
import json
import re
import selectors
import socket
import sys
import time
from functools import cache

SHAPE = re.compile(rb'"shape": \[(\d+)')


class Served:
    """What all connections share."""

    def __init__(self, classes: int, seconds: float) -> None:
        self.classes, self.seconds = classes, seconds
        self.requests, self.images, self.taken = 0, 0, 0.0

    @cache  # noqa: B019 - it lives as long as the process
    def reply(self, images: int) -> bytes:
        """Zeros, as bytes after the JSON."""
        size = 4 * images * self.classes
        output = {
            "name": "output", "datatype": "FP32", "shape": [images, self.classes],
            "parameters": {"binary_data_size": size},
        }  # fmt: skip
        head = json.dumps({"model_name": "stub", "outputs": [output]}).encode()
        return _http(head + bytes(size), f"Inference-Header-Content-Length: {len(head)}\r\n")

    def metadata(self) -> bytes:
        """What goes in and what comes out; the input is left open, for tensors and files are taken alike."""
        output = {"name": "output", "datatype": "FP32", "shape": [-1, self.classes]}
        return _http(json.dumps({"name": "stub", "versions": ["1"], "inputs": [], "outputs": [output]}).encode())

    def report(self) -> bytes:
        """Since the last one."""
        found = {"requests": self.requests, "images": self.images, "seconds": self.taken / max(1, self.images)}
        self.requests, self.images, self.taken = 0, 0, 0.0
        return _http(json.dumps(found).encode())


class Connection(asyncio.Protocol):
    """One client's."""

    def __init__(self, served: Served) -> None:
        self._served, self._got = served, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Small replies leave at once: asyncio sets TCP_NODELAY."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers when the request is whole; the next one comes after its reply."""
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._got[:end]).lower()
        if head.startswith(b"get"):
            self._got.clear()
            self._transport.write(self._served.report() if b"/served" in head else self._served.metadata())
            return
        length = int(re.search(rb"content-length: (\d+)", head.replace(b"header-content-length", b""))[1])
        if len(self._got) < end + 4 + length:
            return
        images = int(SHAPE.search(self._got, end)[1])
        self._got.clear()
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        loop.call_later(images * self._served.seconds, self._answer, images, began)

    def _answer(self, images: int, began: float) -> None:
        self._transport.write(self._served.reply(images))
        self._served.requests += 1
        self._served.images += images
        self._served.taken += time.perf_counter() - began


def _http(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def serve(served: Served) -> None:
    """Until it is killed."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(served), sock=listening)
    print(listening.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    # epoll, the default, waits for whole milliseconds
    precise = asyncio.SelectorEventLoop(selectors.SelectSelector())
    precise.run_until_complete(serve(Served(int(sys.argv[1]), float(sys.argv[2]) / 1000)))
