"""One attempt at a job, in a process of its own, which may die without taking anything with it."""

import json
import os
import select
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from reprogram.channel import GO_ON, STOP, VARIABLE, Curve

LOG = "output.log"
PATIENCE = 120  # seconds for a run that is ended to write its checkpoint


def run(
    command: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    report: Callable[[Curve], bool],
    beat: Callable[[], None],
    every: float,
) -> int:
    """Runs to the end, and returns the exit code; what it says goes to ``output.log`` in its folder.

    An exception of ``report`` or ``beat`` ends the run as SIGTERM does, and goes on.

    Args:
        command: The command line.
        folder: The run directory.
        environment: Variables beside those there are.
        report: Gets the learning curve as it grows; says whether the run is to stop.
        beat: Called at least every so many seconds.
        every: Seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curve, write_to = os.pipe()
    read_from, answer = os.pipe()
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_to, read_from),
            env=os.environ | environment | {VARIABLE: f"{write_to},{read_from}"},
        )
    os.close(write_to)
    os.close(read_from)
    try:
        with os.fdopen(curve) as lines:
            while True:
                beat()
                if not select.select([lines], [], [], every)[0]:
                    if process.poll() is not None:  # what it has started may keep the other end open
                        break
                    continue
                line = lines.readline()
                if not line:  # the end of the process, or nearly
                    break
                with suppress(BrokenPipeError):
                    os.write(answer, f"{STOP if report(json.loads(line)) else GO_ON}\n".encode())
        while True:
            beat()
            with suppress(subprocess.TimeoutExpired):
                return process.wait(every)
    finally:
        end(process)
        os.close(answer)  # before that it would end the run


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that still runs."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(folder: Path) -> str:
    """Why a run failed, as far as it could say."""
    try:
        said = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it said nothing"
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or ["it said nothing"])[-1].removeprefix("error: ")[:300]
