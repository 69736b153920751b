"""SIGTERM (SLURM, Kubernetes, ``kill``) ends a run so that the same command continues it.

Between two steps there is a moment at which nothing is lost, so within the training it is waited for. Anywhere else
(data are cached, validation or test is scored) the run ends at once: what it has is kept already.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from reprogram import exit_codes


class Preempted(SystemExit):
    """The run was asked to end; no ``Exception``, so that nobody on its way takes it for a failure."""

    def __init__(self) -> None:
        super().__init__(exit_codes.PREEMPTED)


@dataclass
class _Request:
    received: bool = False
    waits: bool = False
    others: list[Callable[[int], None]] = field(default_factory=list)


_request = _Request()


def listen() -> None:
    """From now on a SIGTERM ends this process as described above."""
    signal.signal(signal.SIGTERM, _take)


def pass_on(send: Callable[[int], None]) -> None:
    """Names what sends a signal to processes that this one has started."""
    _request.others.append(send)


def received() -> bool:
    """Whether there was a SIGTERM."""
    return _request.received


def wait() -> None:
    """A step begins: whoever trains looks at ``received`` when it is done."""
    _request.waits = True


def now() -> None:
    """No step is under way any more.

    Raises:
        Preempted: If there was a SIGTERM meanwhile; from now on, when there is one.
    """
    _request.waits = False
    if _request.received:
        raise Preempted


def _take(signum: int, frame: FrameType | None) -> None:
    if _request.received:  # by way of another process, too
        return
    _request.received = True
    for send in _request.others:
        send(signum)
    if not _request.waits:
        raise Preempted
