"""``reprogram-serve`` in a process of its own, which can be killed and started again at the same address."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHARGES, SAID = "charges", "server.log"


class ServerProcess:
    """A server of a folder, which holds what it charged and what it said.

    Attributes:
        url: Where it listens; the same after another ``start``.
    """

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder, self.url = folder, ""
        self._overrides, self._port = overrides, "0"

    def start(self) -> None:
        """Returns when it listens."""
        command = [sys.executable, "-m", "reprogram.commands.serve", f"charges={self.folder / CHARGES}"]
        with (self.folder / SAID).open("ab") as said:
            self._process = subprocess.Popen(
                [*command, f"port={self._port}", *self._overrides],
                cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=said, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            line = stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (self.folder / SAID).read_text()[-3000:]
        self.url = line.split()[0]
        self._port = self.url.rsplit(":", 1)[1]

    def kill(self) -> None:
        """SIGKILL to the process that listens alone, as when it runs out of memory; those of the model end by it."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGKILL to all of them."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def charged(self) -> int:
        """Images so far."""
        return sum(map(int, (self.folder / CHARGES).read_bytes().split()))


@contextmanager
def running(folder: Path, *overrides: str) -> Iterator[ServerProcess]:
    """A server for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(folder, *overrides)
    server.start()
    try:
        yield server
    finally:
        server.stop()
