"""``reprogram-train`` that counts what its processes send to one another.

    REPROGRAM_SENT=FOLDER python -m tests.integration.counted_process OVERRIDES

Each process writes ``FOLDER/RANK.json``: the bytes that its TCP connections have sent at the end of every step, as the
kernel counts them.
"""

import json
import os
import socket
import struct
from pathlib import Path

import pytorch_lightning as pl

SENT = 200  # where struct tcp_info has tcpi_bytes_sent


def bytes_sent() -> int:
    """Over all open TCP connections of this process, without headers."""
    total = 0
    for file in Path("/proc/self/fd").iterdir():
        if not os.path.lexists(file) or not os.readlink(file).startswith("socket:"):
            continue
        with socket.socket(fileno=os.dup(int(file.name))) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, SENT)[0]
    return total


class Count(pl.Callback):
    """Notes the bytes at the end of every step."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.sent.append(bytes_sent())

    def on_train_end(self, trainer: pl.Trainer, *_: object) -> None:
        path = Path(os.environ["REPROGRAM_SENT"]) / f"{trainer.global_rank}.json"
        path.write_text(json.dumps(self.sent))


def main() -> None:
    from reprogram import build
    from reprogram.commands.train import main as train

    made = build.callbacks
    build.callbacks = lambda *args: [*made(*args), Count()]
    train()


if __name__ == "__main__":
    main()
