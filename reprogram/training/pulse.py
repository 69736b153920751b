"""Each process of a run tells the others that it is alive and how far it has come, so that a hung one has a name."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_group, _get_default_store

from reprogram import exit_codes

EVERY = 1.0  # seconds between two beats
SILENT = 5.0  # seconds without a beat after which a process is dead, or was stopped
LOST = "pulse/lost"  # key of the store that the processes have met at


class Pulse:
    """Threads beside the training that end this process when it has waited for others too long.

    Every process counts the collective operations it has begun. Those that have begun more than others, and begin no
    more, wait for these. PyTorch too gives up in the end, but does not know whom it waited for.

    Args:
        timeout: Longest wait, in seconds.
        last: Called before this process is ended.
    """

    def __init__(self, timeout: float, last: Callable[[], None]) -> None:
        self.timeout, self._last = timeout, last
        self._rank, self._processes = dist.get_rank(), dist.get_world_size()
        self._group, self._store = _get_default_group(), _get_default_store().clone()  # type: ignore[attr-defined]
        self._ended, self._answered = threading.Event(), time.monotonic()  # and when the store has answered last
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._run, self._watch)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads; when all processes have done so, they may go."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def dead(self) -> list[int]:
        """Processes that are dead, or were stopped; takes some seconds to find out."""
        try:
            before = self._heard()
            time.sleep(SILENT)
            return _silent(before, self._heard())
        except RuntimeError:  # the store is the first process's
            return [0]

    def _heard(self) -> list[str]:
        """What each process has said last: operations begun, and beats."""
        keys = [f"pulse/{rank}" for rank in range(self._processes)]
        return [self._store.get(key).decode() if self._store.check([key]) else "0 0" for key in keys]

    def _run(self) -> None:
        begun, beats, since = -1, 0, time.monotonic()
        waiting: tuple[float, list[str]] | None = None  # since when the others are listened to, and what they said then
        while not self._ended.wait(EVERY):
            now = time.monotonic()
            if self._begun() > begun:
                begun, since, waiting = self._begun(), now, None
            beats += 1
            try:
                self._store.set(f"pulse/{self._rank}", f"{begun} {beats}")
                if self._store.check([LOST]):
                    self._leave()
                if now - since > self.timeout:
                    waiting = waiting or (now, self._heard())
                    if now - waiting[0] > SILENT:
                        self._blame(waiting[1], self._heard())
                self._answered = time.monotonic()
            except RuntimeError:
                if now - self._answered > SILENT:
                    self._leave([0])

    def _watch(self) -> None:
        """A machine that has stopped refuses nothing: whoever asks its store waits for ever."""
        while not self._ended.wait(EVERY):
            if time.monotonic() - self._answered > self.timeout + SILENT:
                self._leave([0])

    def _blame(self, before: list[str], after: list[str]) -> None:
        """Ends all, if this process is one of those that wait, and not of those that are waited for."""
        begun = [int(said.split()[0]) for said in after]
        lost = [rank for rank, count in enumerate(begun) if count < max(begun)]
        lost = sorted({*lost, *_silent(before, after)})
        if lost and self._rank not in lost:
            self._leave(lost)

    def _begun(self) -> int:
        return int(self._group._get_sequence_number_for_group())  # type: ignore[attr-defined]

    def _leave(self, lost: Sequence[int] = ()) -> NoReturn:
        """Ends this process, which cannot come back from where it waits; the first one to do so tells why."""
        if lost and (0 in lost or self._speaks()):
            print(
                f"error: {named(lost)} of this run hung: the others have waited for {self.timeout:g} s "
                "(trainer.strategy.timeout); the same command continues",
                file=sys.stderr,
                flush=True,
            )
        self._last()
        os._exit(exit_codes.LOST)

    def _speaks(self) -> bool:
        try:
            return bool(self._store.add(LOST, 1) == 1)
        except RuntimeError:
            return True


def named(ranks: Sequence[int]) -> str:
    """Ranks in a message."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _silent(before: Sequence[str], after: Sequence[str]) -> list[int]:
    return [rank for rank, (one, other) in enumerate(zip(before, after, strict=True)) if one == other]
