"""The workers of this machine: processes that are started again when they die."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from reprogram import exit_codes
from reprogram.errors import ReprogramError
from reprogram.preemption import Preempted
from reprogram.sweeps.plan import Sweep
from reprogram.sweeps.storage import STORAGE_ERRORS, reason
from reprogram.sweeps.worker import work

MOST_RESTARTS = 20  # of all workers: then something is wrong that does not pass

log = logging.getLogger(__name__)


def run_workers(sweep: Sweep) -> None:
    """Works with as many processes as the sweep says, until it is done.

    A worker that dies is replaced; what it did is taken up again by whoever sees first that it gives no sign of life.
    """
    if sweep.workers == 1:
        return work(sweep)
    context = multiprocessing.get_context("spawn")

    def start(index: int) -> SpawnProcess:
        process = context.Process(target=_worker, args=(sweep, index), name=f"worker {index}")
        process.start()
        return process

    running = {index: start(index) for index in range(sweep.workers)}
    signal.signal(signal.SIGTERM, _preempted)
    restarts = 0
    try:
        while running:
            wait([process.sentinel for process in running.values()])
            for index, process in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                del running[index]
                if process.exitcode != 0 and restarts < MOST_RESTARTS:
                    restarts += 1
                    died = f"worker {index} (pid {process.pid}) died with {process.exitcode}"
                    log.warning("%s; another takes its place", died)
                    time.sleep(restarts)  # a database may come back
                    running[index] = start(index)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _worker(sweep: Sweep, index: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    threading.Thread(target=_follow, daemon=True).start()
    try:
        work(sweep, index)
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)
    except (*STORAGE_ERRORS, ReprogramError) as error:
        log.error("worker %d: %s", index, reason(error))
        sys.exit(1)


def _follow() -> None:
    """Ends this worker when the command that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _preempted(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Preempted
