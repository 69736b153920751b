"""An oracle in a process of its own, with a count of its own: what a ledger is compared with.

    python -m tests.integration.oracle_process FOLDER

It answers one request after the other, image by image in one thread, so an image has the same answer to the last bit
whatever it was sent with, and by whom; it writes its count to the disk before it answers.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Listener
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
SIDE, CLASSES = 16, 12
SOCKET, COUNT = "oracle.sock", "oracle.count"


class RemoteNetwork(nn.Module):
    """Sends images to the oracle; for ``source=module``."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.is_made = False

    def forward(self, images: Tensor) -> Tensor:
        if not self.is_made:  # the question of how many classes there are, at construction, is no query
            self.is_made = True
            return torch.zeros(len(images), CLASSES)
        with Client(str(self.folder / SOCKET)) as connection:  # one for each request: several processes take turns
            connection.send_bytes(images.contiguous().numpy().tobytes())
            return torch.frombuffer(bytearray(connection.recv_bytes()), dtype=torch.float32).view(-1, CLASSES)


@contextmanager
def oracle(folder: Path) -> Iterator[Path]:
    """Runs the server for a folder (its path at most 90 characters long: a Unix socket's limit)."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.integration.oracle_process", str(folder)]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        while not (folder / SOCKET).exists():
            assert server.poll() is None, "the oracle did not start"
            time.sleep(0.02)
        yield folder
    finally:
        server.kill()
        server.wait()


def count(folder: Path) -> int:
    """Images that the oracle has received so far."""
    return int((folder / COUNT).read_text())


def settled_count(folder: Path) -> int:
    """The same after the client that died has been served to its last word, since clients are served in turn."""
    with Client(str(folder / SOCKET)) as connection:
        connection.send_bytes(b"")
        connection.recv_bytes()
    return count(folder)


def serve(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (SIDE // 4) ** 2, CLASSES),
    )  # fmt: skip
    total, file = 0, os.open(folder / COUNT, os.O_CREAT | os.O_WRONLY)
    os.pwrite(file, b"%08d" % total, 0)
    with Listener(str(folder / SOCKET), backlog=16) as listener, torch.inference_mode():
        while True:
            with listener.accept() as client:
                try:
                    while True:
                        images = np.frombuffer(client.recv_bytes(), dtype=np.float32).reshape(-1, 1, 3, SIDE, SIDE)
                        total += len(images)
                        os.pwrite(file, b"%08d" % total, 0)
                        os.fsync(file)
                        logits = [network(torch.tensor(image))[0] for image in images]
                        client.send_bytes(torch.stack(logits).numpy().tobytes() if logits else b"")
                except (EOFError, ConnectionError):  # the client is gone, perhaps in the middle of a word
                    pass


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
