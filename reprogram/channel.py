"""What a run and the sweep that started it say to each other: curves one way, "go on" or "stop" the other."""

import json
import os
import signal
import threading
from contextlib import suppress
from queue import SimpleQueue

VARIABLE = "REPROGRAM_CHANNEL"  # two file descriptors: curves are written to one, answers are read from the other
GO_ON, STOP = "go on", "stop"

Curve = list[tuple[int, float]]
"""Numbers of validations, and values."""


class Channel:
    """The run's end: each part of a curve is a line of JSON, and is answered by a line.

    When the sweep's worker is gone, the run ends as by SIGTERM: it would go on unseen, beside the attempt that replaces
    it.

    Args:
        write_to: Descriptor for curves.
        read_from: Descriptor for answers.
    """

    def __init__(self, write_to: int, read_from: int) -> None:
        self._write_to = write_to
        self._answers: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, args=(read_from,), daemon=True).start()

    def is_over(self, curve: Curve) -> bool:
        """Reports what is new, and says whether the sweep has no more use for the run."""
        with suppress(BrokenPipeError):  # the worker is gone: that is dealt with below
            os.write(self._write_to, f"{json.dumps(curve)}\n".encode())
        return self._answers.get() == STOP

    def _listen(self, read_from: int) -> None:
        with os.fdopen(read_from) as answers:
            for line in answers:
                self._answers.put(line.strip())
        self._answers.put(GO_ON)  # to where the signal is minded
        os.kill(os.getpid(), signal.SIGTERM)


def open_channel() -> Channel | None:
    """The channel of this run, if a sweep has started it."""
    found = os.environ.get(VARIABLE)
    return None if found is None else Channel(*map(int, found.split(",")))
