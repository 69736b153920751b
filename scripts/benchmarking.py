"""What the speed benchmarks share: a process for each measurement, peak memory, profiles, and what is beside them."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 5.0  # of one measurement of a bare network


def command_line(
    description: str | None,
    measures: dict[str, Callable[..., dict[str, float]]],
    actions: dict[str, Callable[[Path], None]],
) -> None:
    """Runs the action that is named, with the folder of the results, or ``one`` measurement for ``measured``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=(*actions, "one"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks"))
    parser.add_argument("--case", type=json.loads, help="of `one`: what a single process measures")
    arguments = parser.parse_args()
    if arguments.action == "one":
        print(json.dumps(measures[arguments.case.pop("variant")](**arguments.case)))
    else:
        actions[arguments.action](arguments.output)


def measured(script: str, variant: str, **case: Any) -> dict[str, float]:
    """One measurement in a process of its own, with the environment that a user has."""
    command = [sys.executable, script, "one", "--case", json.dumps({"variant": variant, **case})]
    surroundings = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    if found.returncode:
        sys.exit(f"{variant} {case}\n{found.stderr[-3000:]}")
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    print(variant, case, result, flush=True)
    return result


def timed(step: Callable[[], object], images: int) -> float:
    """Seconds an image, the mean over some seconds."""
    for _ in range(3):
        step()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS or count < 5:
        step()
        count += 1
    return (time.perf_counter() - started) / count / images


class Peak:
    """The largest resident memory since it was made, above what was resident then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._of("VmRSS")

    def mib(self) -> float:
        """In MiB."""
        return (self._of("VmHWM") - self.before) / 1024

    @staticmethod
    def _of(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def operators(step: Callable[[], object], least: float = 0.004) -> list[str]:
    """Share of a step that each operator takes by itself, largest first; the mean over three steps."""
    from torch.profiler import ProfilerActivity, profile, schedule

    plan = schedule(wait=4, warmup=8, active=3)  # what the profiler allocates is to be settled
    with profile(activities=[ProfilerActivity.CPU], schedule=plan, acc_events=True) as found:
        for _ in range(15):
            step()
            found.step()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    shown = [row for row in rows if row.self_cpu_time_total >= least * total]
    lines = [_line(row.self_cpu_time_total, total, f"{row.count // 3:5d} x  {row.key}") for row in shown]
    rest = total - sum(row.self_cpu_time_total for row in shown)
    return [*lines, _line(rest, total, f"         everything below {least:.1%}")]


def _line(microseconds: float, total: float, name: str) -> str:
    return f"{microseconds / total:7.1%} {microseconds / 3000:9.2f} ms {name}"


def weights_of(source: str) -> Path:
    """The local file of ImageNet weights."""
    return Path(os.environ["REPROGRAM_ASSETS"], "weights", "noncommercial", f"{source}_ktb.torchvision.safetensors")


def composed(source: str, *overrides: str) -> dict[str, Any]:
    """The configuration of ``reprogram-train`` for HAM10000 at 64 pixels."""
    from hydra import compose, initialize_config_dir

    from reprogram.build import plain
    from reprogram.commands.launch import config_folder

    files = (f"source.name={source}", f"source.weights={weights_of(source)}")
    quiet = ("trainer.enable_progress_bar=false", "logger=none")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return plain(compose("train", ["experiment=white_box/ham10000_resnet18", *files, *quiet, *overrides]))


def environment() -> dict[str, Any]:
    """Hardware, versions and command, beside the numbers."""
    import torch

    from reprogram.records import environment as recorded

    found = recorded(torch.device("cpu"))
    processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    units = "AMX" if torch.cpu._is_amx_tile_supported() else torch.backends.cpu.get_cpu_capability()
    found["device"] = f"{processor.split(':')[1].strip()}, {os.cpu_count()} cores, {units}"
    found["command"] = f"REPROGRAM_ASSETS=DIR python scripts/{Path(sys.argv[0]).name} {sys.argv[1]}"
    return found


def read(path: Path) -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write(record: dict[str, Any], path: Path) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def median(rounds: list[dict[str, dict[str, float]]], variant: str, key: str = "seconds_per_image") -> float:
    """Of the rounds."""
    return statistics.median(one[variant][key] for one in rounds)


def ratio(rounds: list[dict[str, dict[str, float]]], slow: str, fast: str) -> str:
    """How many times faster, round by round: the median and the range."""
    found = sorted(one[slow]["seconds_per_image"] / one[fast]["seconds_per_image"] for one in rounds)
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"
