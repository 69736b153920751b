"""The other processes of a run on this machine, started by the first one, which says so when one of them dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytorch_lightning as pl
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from reprogram import exit_codes, preemption

EVERY = 0.5  # seconds between two looks at them
PATIENCE = 30.0  # seconds for the first process to end, too, when another was asked to


class Children(_SubprocessScriptLauncher):
    """Lightning's launcher, but for what happens when a process dies: Lightning kills all without a word."""

    _ending = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Starts the others, unless torchrun or srun has, and trains."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            preemption.pass_on(self.kill)
            threading.Thread(target=self._observe, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def kill(self, signum: int) -> None:
        """Sends a signal to the others; those that are killed by this process have not died by themselves."""
        self._ending = self._ending or signum == signal.SIGKILL
        super().kill(signum)

    def ended_by_request(self) -> bool:
        """Whether one of the others has ended because it was asked to."""
        return any(process.poll() == exit_codes.PREEMPTED for process in self.procs)

    def end(self, patience: float) -> None:
        """Waits for the others to end, and kills those that do not."""
        self._ending = True
        deadline = time.monotonic() + patience
        for process in self.procs:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _observe(self) -> None:
        while any(process.returncode != 0 for process in self.procs):
            time.sleep(EVERY)
            for rank, process in enumerate(self.procs, 1):
                if process.poll() and not self._ending:
                    self._leave(rank, process.returncode)

    def _leave(self, rank: int, code: int) -> NoReturn:
        """Ends all, however long this process would wait for the one that is gone."""
        if code in (exit_codes.PREEMPTED, exit_codes.INTERRUPTED):  # this one was asked, too, and puts things in order
            time.sleep(PATIENCE)
        elif code != exit_codes.LOST:  # else it has told
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code} (see above)"
            print(f"error: rank {rank} of this run {how}; the same command continues", file=sys.stderr, flush=True)
        self.end(0)
        os._exit(code if code > 0 else exit_codes.LOST)
