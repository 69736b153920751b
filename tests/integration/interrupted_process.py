"""``reprogram-train`` whose process gets a signal in the middle of a phase, however fast the machine is.

    REPROGRAM_INTERRUPT="validation 2 0 SIGTERM" python -m tests.integration.interrupted_process OVERRIDES

The phase, which call of it, the rank, and the signal, or HANG; without the variable it is the command itself. The
moment is written into a file named by ``REPROGRAM_INTERRUPTED``; where there is that file, nothing happens any more.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = {
    "caching": ("reprogram.data.pixels", None, "read_image"),
    "training": ("reprogram.training.module", "ReprogrammingModule", "training_step"),
    "validation": ("reprogram.training.module", "ReprogrammingModule", "validation_step"),
    "evaluation": ("reprogram.finishing", None, "score"),
}


def interrupted(function: Callable[..., Any], call: int, what: str) -> Callable[..., Any]:
    """The function, but for what happens to this process at one call."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            Path(os.environ["REPROGRAM_INTERRUPTED"]).write_text(str(time.time()))
            if what == "HANG":
                time.sleep(1000)
            os.kill(os.getpid(), signal.Signals[what])
        return function(*args, **kwargs)

    return wrapped


def prepare() -> None:
    """Puts the signal where the environment says."""
    from importlib import import_module

    phase, call, rank, what = os.environ["REPROGRAM_INTERRUPT"].split()
    mine = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == rank
    if not mine or Path(os.environ["REPROGRAM_INTERRUPTED"]).exists():
        return
    module, owner, attribute = PHASES[phase]
    place = import_module(module) if owner is None else getattr(import_module(module), owner)
    setattr(place, attribute, interrupted(getattr(place, attribute), int(call), what))


if __name__ == "__main__":
    from reprogram.commands.train import main

    if "REPROGRAM_INTERRUPT" in os.environ:
        prepare()
    main()
