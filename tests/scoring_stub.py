"""An HTTP server on this machine that answers as a script says, and keeps what it was sent."""

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sent:
    """What the server got."""

    path: str
    headers: dict[str, str]
    content: bytes


@dataclass
class Says:
    """What it answers.

    Args:
        content: Bytes, or what becomes JSON.
        status: Of the reply; 0: the connection is reset instead.
        headers: Of the reply.
        after: Seconds.
        drips: Seconds between two bytes.
        closes: Whether the connection is closed after the reply, which does not say so.
    """

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    drips: float = 0.0
    closes: bool = False


Script = Callable[[Sent, int], Says]
"""Gets a request and how many came before it."""


@dataclass
class Stub:
    """A running server."""

    url: str
    got: list[Sent] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0


@contextmanager
def serving(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[Stub]:
    """Runs a server for the block."""
    lock, connections = threading.Lock(), list[socket.socket]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.request)
            super().setup()

        def log_message(self, *_: Any) -> None: ...

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            sent = Sent(self.path, {key.lower(): value for key, value in self.headers.items()}, content)
            with lock:
                before = len(stub.got)
                stub.got.append(sent)
                stub.under_way += 1
                stub.most_under_way = max(stub.most_under_way, stub.under_way)
            try:
                self.reply(script(sent, before))
            finally:
                with lock:
                    stub.under_way -= 1

        do_GET = do_POST = answer  # noqa: N815 - named by http.server

        def reply(self, says: Says) -> None:
            time.sleep(says.after)
            if not says.status:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            body = says.content if isinstance(says.content, bytes) else json.dumps(says.content).encode()
            try:
                self.send_response(says.status)
                for key, value in ({"Content-Length": str(len(body))} | says.headers).items():
                    self.send_header(key, value)
                self.end_headers()
                for part in map(bytes, zip(body, strict=False)) if says.drips else (body,):
                    self.wfile.write(part)
                    time.sleep(says.drips)
                self.close_connection = self.close_connection or says.closes
            except OSError:  # a client that did not wait
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:  # a handshake is a matter of the connection's own thread
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    stub = Stub(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        for connection in connections:  # which would be served for as long as their clients keep them
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()
