"""How fast images go through ``source=http``, ledger and all, and what the client computes for each.

    python scripts/benchmark_http.py run --output benchmarks
    python scripts/benchmark_http.py profile --output benchmarks
    python scripts/benchmark_http.py report --output benchmarks

The service is a stub in a process of its own (``timed_stub.py``) that takes 5 ms for an image in each connection, so
that ``concurrency / 5 ms`` is the limit. Every point is a process of its own, of a few seconds: images of 8 x 8 pixels
and 10 classes, so that the client's work for a request is what is seen, through ``BlackBox`` with the ledger in a file,
every answer stored.

- ``stream``: all images in one question, so that all connections are busy but for the last few requests.
- ``steps``: so many at a time as the trainer asks (``at_once``), each question after the answers to the one before.
- ``work``: CPU time of the client's process for an image of 224 x 224 pixels and 1000 classes, from the image in memory
  to the stored answer, at a concurrency of 8; PNG files are those of a digit under a coarse program.
"""

import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarking import command_line, environment, measured, read, write

FILE = "http.json"
SERVICE = 0.005  # seconds of an image
SECONDS = 2.5  # of a point, at least
ROUNDS = 20  # of requests of a point, at least
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)
PER_REQUEST = (1, 16, 64)
WORK = [(encoding, per_request) for encoding in ("float", "png") for per_request in (1, 8)]
WANTED = 0.9


def run(output: Path) -> None:
    """Measures everything, and writes after each part."""
    record: dict[str, Any] = {"environment": environment(), "points": [], "work": []}
    for per_request in PER_REQUEST:
        for concurrency in CONCURRENCY:
            case = {"concurrency": concurrency, "per_request": per_request}
            found = {name: measured(__file__, name, **case) for name in ("stream", "steps")}
            record["points"].append({**case, **found})
            write(record, output / FILE)
    for encoding, per_request in WORK:
        case = {"encoding": encoding, "per_request": per_request}
        record["work"].append({**case, **measured(__file__, "work", **case)})
    write(record, output / FILE)


@contextmanager
def stub(classes: int, seconds: float) -> Iterator[str]:
    """Address of a service that runs."""
    script = Path(__file__).with_name("timed_stub.py")
    command = [sys.executable, str(script), str(classes), str(1000 * seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def boxed(url: str, folder: str, side: int, concurrency: int, per_request: int, encoding: str = "float"):
    """A black box whose ledger lies in a folder."""
    from reprogram.sources.black_box import BlackBox
    from reprogram.sources.http.open_inference import OpenInference
    from reprogram.sources.http.source import HttpSource
    from reprogram.sources.ledger import Ledger

    content = "tensor" if encoding == "float" else "files"
    adapter = OpenInference("stub", content=content, images_per_request=per_request)
    names = [f"class {index}" for index in range(json.load(urlopen(f"{url}/v2/models/stub"))["outputs"][0]["shape"][1])]
    source = HttpSource(
        url, adapter, encoding=encoding, image_size=(side, side), classes=names, concurrency=concurrency, drift_check=0
    )
    return BlackBox(source, Ledger(Path(folder) / "ledger.sqlite", "."), encoding=encoding)


def stream(concurrency: int, per_request: int) -> dict[str, float]:
    """All in one question."""
    return throughput(concurrency, per_request, whole=True)


def steps(concurrency: int, per_request: int) -> dict[str, float]:
    """As the trainer asks."""
    return throughput(concurrency, per_request, whole=False)


def throughput(concurrency: int, per_request: int, whole: bool) -> dict[str, float]:
    """Images a second, as a fraction of what the concurrency allows as well."""
    import torch

    torch.set_num_threads(1)
    limit = concurrency / SERVICE
    with stub(10, SERVICE) as url, tempfile.TemporaryDirectory() as folder:
        box = boxed(url, folder, 8, concurrency, per_request)
        seconds = max(SECONDS, ROUNDS * per_request * SERVICE)
        images = torch.rand(int(seconds * limit), 3, 8, 8)
        box(torch.rand(2 * concurrency * per_request, 3, 8, 8))  # opens the connections
        urlopen(f"{url}/served").read()
        before, started = cpu_seconds(), time.perf_counter()
        asked = 0
        for part in torch.split(images, len(images) if whole else box.at_once()):
            box(part)
            asked += len(part)
            if time.perf_counter() - started > 2 * seconds and not whole:
                break
        seconds, busy = time.perf_counter() - started, cpu_seconds() - before
        served = json.load(urlopen(f"{url}/served"))
    assert served["images"] == asked
    return {
        "images_per_second": asked / seconds,
        "fraction": asked / seconds / limit,
        "cpu_us_per_image": 1e6 * busy / asked,
        "cores_busy": busy / seconds,
        "service_ms_per_image": 1000 * served["seconds"],
    }


def work(encoding: str, per_request: int) -> dict[str, float]:
    """CPU microseconds of an image."""
    with stub(1000, 0.0001) as url, tempfile.TemporaryDirectory() as folder:
        box = boxed(url, folder, 224, 8, per_request, encoding)
        images, asked, busy = pictures(128), 0, 0.0
        box(images)
        started = time.perf_counter()
        while time.perf_counter() - started < 2 * SECONDS:
            images = (images + 1 / 255) % 1  # no answer is stored
            before = cpu_seconds()
            box(images)
            asked, busy = asked + len(images), busy + cpu_seconds() - before
        sent = sum(len(file) for file in _images(images, encoding))
    return {"cpu_us_per_image": 1e6 * busy / asked, "bytes_per_image": sent / len(images)}


def _images(images, encoding: str) -> list[bytes]:
    from reprogram.sources.http.adapter import Images

    if encoding == "float":
        return [image.numpy().tobytes() for image in images]
    return Images(images, encoding).files


def pictures(count: int):
    """Digits under a coarse program, [count, 3, 224, 224] in [0, 1]."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import interpolate

    digits = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    programs = 0.3 * torch.randn(count, 3, 8, 8)
    enlarged = [interpolate(part, (224, 224), mode="bilinear") for part in (digits, programs)]
    return (0.5 * enlarged[0] + 0.25 + enlarged[1]).clamp(0, 1)


def cpu_seconds() -> float:
    """Of this process, all threads, with what the system does for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def profile(output: Path) -> None:
    """What the thread of the event loop does: the functions that take the most time by themselves."""
    lines = []
    for per_request in PER_REQUEST:
        import torch

        torch.set_num_threads(1)
        with stub(10, SERVICE) as url, tempfile.TemporaryDirectory() as folder:
            box = boxed(url, folder, 8, 64, per_request)
            box(torch.rand(256, 3, 8, 8))
            profiler, loop = cProfile.Profile(), box.source._client._loop
            loop.call_soon_threadsafe(profiler.enable)
            images = torch.rand(8192 if per_request > 1 else 2048, 3, 8, 8)
            box(images)
            loop.call_soon_threadsafe(profiler.disable)
            time.sleep(0.1)
        table = output / "profile.txt"
        with table.open("w") as stream_:
            found = pstats.Stats(profiler, stream=stream_).strip_dirs().sort_stats("tottime")
            found.print_stats(45)
            found.sort_stats("cumulative").print_stats(45)
        lines += [f"{per_request} image(s) a request, {len(images)} images", table.read_text()]
        table.unlink()
    (output / "http_profile.txt").write_text("\n".join(lines))


def report(output: Path) -> None:
    """Writes the tables."""
    record = read(output / FILE)
    (output / "http.md").write_text(
        TEXT.format(
            environment=surroundings(record["environment"]),
            one=table(record["points"], 1),
            several=table(record["points"], 16),
            many=table(record["points"], 64),
            work=work_table(record["work"]),
        )
    )


TEXT = """# How fast images go through `source=http`

Through a black box with its ledger in a file, every answer stored, against a stub in a process of its own that takes
5 ms for an image in each connection; so `source.concurrency` / 5 ms is the most there can be. Images are small (8 x 8
pixels, 10 classes, float32 tensors as bytes by the Open Inference Protocol): what is measured is the client's work for
a request. *stream*: all images in one question. *steps*: one question after the other, of as many images as the
trainer sends at a time. *CPU*: user and system time of the client's process, all threads. *service*: what the stub
took in fact. A point takes 2.5 s, or 20 requests of each connection. One process of Python is the limit where a
request takes it longer than the service: with one image a request from 4 requests under way on, and more images a
request (`source.adapter.images_per_request`) move that limit away. Made by

    python scripts/benchmark_http.py run; python scripts/benchmark_http.py report

{environment}

## One image a request

{one}

## 16 images a request

{several}

## 64 images a request

{many}

## What an image costs the client

CPU time from an image in memory to its stored answer, 224 x 224 pixels, 1000 classes, 8 requests under way; the PNG
files are those of a digit under a coarse program, and of the time they take most is compression.

{work}
"""


def surroundings(found: dict[str, Any]) -> str:
    """Where it was measured."""
    import aiohttp

    packages = f"aiohttp {aiohttp.__version__}, torch {found['packages']['torch']}"
    return f"on {found['device']}; Python {found['python']}, {packages}."


def table(points: list[dict[str, Any]], per_request: int) -> str:
    """A row for each concurrency."""
    lines = [
        "| concurrency | limit /s | stream /s | of the limit | steps /s | of the limit | CPU us/image | service ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for point in points:
        if point["per_request"] == per_request:
            stream, steps = point["stream"], point["steps"]
            lines.append(
                f"| {point['concurrency']} | {point['concurrency'] / SERVICE:,.0f} | {_rate(stream)} | {_rate(steps)} "
                f"| {stream['cpu_us_per_image']:,.0f} | {stream['service_ms_per_image']:.2f} |"
            )
    return "\n".join(lines)


def _rate(found: dict[str, float]) -> str:
    share = f"{found['fraction']:.0%}"
    return f"{found['images_per_second']:,.0f} | {f'**{share}**' if found['fraction'] >= WANTED else share}"


def work_table(points: list[dict[str, Any]]) -> str:
    """A row for each encoding and size of a request."""
    lines = ["| sent as | images a request | CPU us/image | bytes |", "| --- | ---: | ---: | ---: |"]
    for point in points:
        name = {"float": "float32 tensor", "png": "PNG file"}[point["encoding"]]
        lines.append(
            f"| {name} | {point['per_request']} | {point['cpu_us_per_image']:,.0f} | {point['bytes_per_image']:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(
        __doc__,
        {"stream": stream, "steps": steps, "work": work},
        {"run": run, "profile": profile, "report": report},
    )
