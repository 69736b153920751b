"""``reprogram-serve`` as it is used: a process, asked over HTTP, ended by signals."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import encode_jpeg, encode_png

from reprogram import artefact, build, sourcing
from reprogram.classifier import ReprogrammedClassifier
from reprogram.commands import serve
from reprogram.serving.faults import Faults
from reprogram.serving.open_inference import HEADER
from reprogram.sources.base import SourceModel
from reprogram.sources.encoding import encode
from reprogram.types import TaskSpec

KEY = "s3cret-of-this-test"
SOURCE = {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": True, "precision": "auto"}
TASK = TaskSpec("toy", ("benign", "malignant"), (12, 10))
CFG: dict[str, Any] = {
    "source": SOURCE,
    "access": {"_target_": None},
    "program": {"_target_": "reprogram.programs.frame.FrameProgram", "size": 32},
    "mapping": {"_target_": "reprogram.mappings.assignment.AssignmentMapping", "choice": "random", "per_class": 4},
    "seed": 0,
}


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    line: str
    folder: Path

    @property
    def url(self) -> str:
        return self.line.split()[0]

    def charged(self) -> list[int]:
        return [int(line) for line in (self.folder / "charges.txt").read_text().split()]

    def said(self) -> str:
        return (self.folder / "said.txt").read_text()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server on a free port, ready, and ended in order."""
    command = [sys.executable, "-m", "reprogram.commands.serve", "port=0", *arguments]
    environment = os.environ | {"SCORING_KEY": KEY}
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        server = Server(process, line, folder)
        assert line.startswith("http://127.0.0.1:"), server.said()
        yield server
        if process.poll() is None:
            process.terminate()
            assert process.wait(timeout=30) == 0
        assert "Traceback" not in server.said()
        assert KEY not in server.said()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


@pytest.fixture(scope="module")
def source() -> SourceModel:
    """What is served, in this process."""
    return sourcing.source({"source": SOURCE}, "cpu", TASK)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("source"), "source=embedded", "key_env=SCORING_KEY", "charges=charges.txt",
        "max_megabytes=0.5", "name=small",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as asking:
        yield asking


def levels(count: int, side: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(7)).to(torch.uint8)


def png(image: torch.Tensor) -> bytes:
    return encode_png(image).numpy().tobytes()


def infer(client: httpx.Client, array: np.ndarray, datatype: str, path: str = "/v2/models/small/infer") -> np.ndarray:
    """Scores by binary tensors."""
    tensor = {"name": "input", "shape": array.shape, "datatype": datatype}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    reply = client.post(path, content=head + array.tobytes(), headers={HEADER: str(len(head))})
    assert reply.status_code == 200, reply.text
    length = int(reply.headers[HEADER])
    (output,) = json.loads(reply.content[:length])["outputs"]
    return np.frombuffer(reply.content[length:], "<f4").reshape(output["shape"])


def test_one_line_says_what_is_served(server: Server) -> None:
    assert server.line == (
        f"{server.url} serves small: 272 classes, images of 64x64 pixels; POST /classify, "
        "POST /v2/models/small/infer; GET /classes, /v2/models/small, /metrics\n"
    )


def test_both_schemas_give_the_answers_of_the_source(client: httpx.Client, source: SourceModel) -> None:
    images = levels(3)
    with torch.inference_mode():
        expected = source(images.float() / 255).numpy()
    assert infer(client, images.numpy(), "UINT8") == pytest.approx(expected, abs=1e-4)
    assert infer(client, (images.float() / 255).numpy(), "FP32") == pytest.approx(expected, abs=1e-4)
    tensor = {"name": "input", "shape": images.shape, "datatype": "UINT8", "data": images.flatten().tolist()}
    reply = client.post("/v2/models/small/infer", json={"id": "q1", "inputs": [tensor]}).json()
    assert (reply["model_name"], reply["id"], reply["outputs"][0]["shape"]) == ("small", "q1", [3, 272])
    assert np.array(reply["outputs"][0]["data"]).reshape(3, 272) == pytest.approx(expected, abs=1e-4)
    names = client.get("/classes").json()
    assert names == list(source.spec.class_names)
    for row, image in enumerate(images):
        found = client.post("/classify", content=png(image)).json()
        assert [entry["score"] for entry in found] == sorted((entry["score"] for entry in found), reverse=True)
        scores = {entry["label"]: entry["score"] for entry in found}
        assert [scores[name] for name in names] == pytest.approx(np.exp(expected[row]).tolist(), abs=1e-4)
        assert client.post("/classify?top_k=5", content=png(image)).json() == [
            {"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-5)} for entry in found[:5]
        ]


def test_a_jpeg_is_scored_as_a_black_box_in_this_process_would(client: httpx.Client, source: SourceModel) -> None:
    image = levels(1)
    with torch.inference_mode():
        expected = source(encode(image.float() / 255, "jpeg", 75))[0].exp()
    found = client.post("/classify", content=encode_jpeg(image[0], quality=75).numpy().tobytes()).json()
    scores = {entry["label"]: entry["score"] for entry in found}
    assert [scores[name] for name in source.spec.class_names] == pytest.approx(expected.tolist(), abs=1e-5)


def test_many_at_a_time_get_their_own_answers(server: Server, client: httpx.Client, source: SourceModel) -> None:
    images = levels(40)
    before = len(server.charged())
    with torch.inference_mode():
        expected = source(images.float() / 255).numpy()
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda row: infer(client, images[row : row + 1].numpy(), "UINT8"), range(40)))
    assert np.concatenate(found) == pytest.approx(expected, abs=1e-4)
    assert server.charged()[before:] == [1] * 40


def test_the_protocol_says_what_there_is(client: httpx.Client, source: SourceModel) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/small/ready").json() == {"name": "small", "ready": True}
    found = client.get("/v2/models/small").json()
    assert found["inputs"][0]["shape"] == [-1, 3, 64, 64]
    assert found["outputs"][0]["shape"] == [-1, 272]
    assert found["versions"] == [source.fingerprint[:12]]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "message"),
    [
        ("POST", "/classify", b"", 400, "expected a PNG or JPEG file"),
        ("POST", "/classify", b"<html>", 400, "expected a PNG or JPEG file"),
        ("POST", "/classify", png(levels(1, 32)[0]), 400, "expected an image of 64x64 pixels"),
        ("POST", "/classify?top_k=0", png(levels(1)[0]), 400, "top_k: expected a whole number >= 1"),
        ("POST", "/classify", b"x" * 600_000, 413, "at most 500000 bytes"),
        ("POST", "/v2/models/small/infer", b"{}", 400, "expected one tensor 'input'"),
        ("POST", "/v2/models/small/infer", b"x" * 600_000, 413, "at most 500000 bytes"),
        ("POST", "/v2/models/other/infer", b"{}", 404, "expected the model 'small', got 'other'"),
        ("GET", "/v2/models/other", b"", 404, "expected the model 'small'"),
        ("GET", "/nothing", b"", 404, "Not Found"),
        ("GET", "/classify", b"", 405, "Method Not Allowed"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_request_gets_one_message_and_costs_nothing(
    server: Server, client: httpx.Client, method: str, path: str, content: bytes, status: int, message: str
) -> None:
    before = server.charged()
    reply = client.request(method, path, content=content)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json")
    assert message in reply.text
    assert server.charged() == before


def test_a_client_that_goes_away_is_no_matter(server: Server, client: httpx.Client) -> None:
    before = server.said()
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEY}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"half")
    assert wait_until(lambda: 'status="400"' in counted(client, "/classify"))
    assert server.said() == before


def counted(client: httpx.Client, path: str) -> str:
    lines = client.get("/metrics").text.splitlines()
    return "\n".join(line for line in lines if line.startswith(f'reprogram_requests_total{{path="{path}"'))


def test_without_the_key_there_is_health_and_nothing_else(server: Server) -> None:
    with httpx.Client(base_url=server.url) as nobody:
        assert nobody.get("/v2/health/ready").status_code == 200
        for path in ("/", "/classes", "/metrics", "/info", "/v2", "/v2/models/small", "/docs", "/openapi.json"):
            reply = nobody.get(path)
            assert reply.status_code == 401, path
            assert "error" in reply.json()
        assert nobody.post("/classify", content=b"", headers={"X-API-Key": "no"}).status_code == 401
        assert nobody.get("/classes", headers={"X-API-Key": KEY}).status_code == 200


def test_what_was_done_is_counted_and_charged(server: Server, client: httpx.Client) -> None:
    before = server.charged()
    infer(client, levels(3).numpy(), "UINT8")
    client.post("/classify", content=png(levels(1)[0]))
    assert server.charged() == [*before, 3, 1]
    text = client.get("/metrics").text
    assert f"reprogram_images_total {float(sum(server.charged()))}" in text.splitlines()
    assert 'reprogram_requests_total{path="/v2/models/{name}/infer",status="200"}' in text
    assert 'reprogram_errors_total{path="/classify"}' in text


@pytest.fixture(scope="module")
def classifier() -> ReprogrammedClassifier:
    made = build.classifier(CFG, sourcing.source(CFG, "cpu", TASK), TASK, "cpu").eval()
    with torch.inference_mode():
        made.threshold = float(made(torch.full((1, 3, 12, 10), 0.5))[0, 1]) + 0.01
    return made


def test_a_finished_run_is_served_and_decides(classifier: ReprogrammedClassifier, tmp_path: Path) -> None:
    artefact.save(classifier, CFG, tmp_path)
    picture = Image.new("L", (120, 37), 90)
    file = io.BytesIO()
    picture.save(file, "JPEG")
    same = torch.full((1, 3, 12, 10), 90, dtype=torch.uint8)
    with torch.inference_mode():
        expected = classifier(same)
        decided = TASK.class_names[int(classifier.decide(expected)[0])]
    with serving(tmp_path, f"run={tmp_path}") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert "serves toy: 2 classes, images of any size" in server.line
        found = client.post("/classify", content=file.getvalue()).json()
        scores = {entry["label"]: entry["score"] for entry in found}
        assert [scores[name] for name in TASK.class_names] == pytest.approx(expected[0].tolist(), abs=1e-5)
        assert [entry["label"] for entry in found if entry["decided"]] == [decided]
        assert infer(client, same.numpy(), "UINT8", "/v2/models/toy/infer") == pytest.approx(expected.numpy(), abs=1e-5)
        facts = client.get("/v2/models/toy").json()["parameters"]
        assert (facts["outputs"], facts["threshold"]) == ("probabilities", pytest.approx(classifier.threshold))


def outcome(client: httpx.Client, row: int) -> str:
    """What became of a question, told as a client sees it."""
    try:
        if row % 2:
            reply = client.post("/classify", content=png(levels(1)[0]))
        else:
            tensor = {"name": "input", "shape": [1, 3, 64, 64], "datatype": "UINT8", "data": levels(1).tolist()}
            reply = client.post("/v2/models/small/infer", json={"inputs": [tensor]})
    except httpx.RemoteProtocolError as error:
        return "truncated" if "incomplete" in str(error) or "complete message body" in str(error) else "reset"
    except (httpx.ReadError, httpx.WriteError):
        return "reset"
    if reply.status_code != 200:
        assert reply.headers.get("retry-after") == ("1" if reply.status_code == 429 else None)
        return f"status_{reply.status_code}"
    found = json.loads(reply.content)
    scores = [entry["score"] for entry in found] if row % 2 else found["outputs"][0]["data"]
    if len(scores) != 272:
        assert len(scores) == 271
        return "wrong_count"
    return "nan" if np.isnan(scores).any() else "right"


def test_faults_come_as_they_were_drawn_and_cost_what_they_should(tmp_path: Path) -> None:
    names = ("status_429", "status_500", "slow", "reset", "truncated", "wrong_count", "nan", "duplicate")
    rates = {name: 0.1 for name in names}
    faults = Faults(**rates, seed=5)
    drawn = [faults.draw() for _ in range(80)]
    assert {*drawn} == {*names, None}
    settings = [f"faults.{name}={rate}" for name, rate in rates.items()]
    with (
        serving(
            tmp_path, "source=embedded", "name=small", "charges=charges.txt",
            "faults.seed=5", "faults.seconds=0.05", *settings,
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):  # fmt: skip
        found = [outcome(client, row) for row in range(80)]
        unseen = {None: "right", "slow": "right", "duplicate": "right"}
        assert found == [unseen.get(fault, fault) for fault in drawn]
        costs = {"status_429": 0, "duplicate": 2}
        assert sum(server.charged()) == sum(costs.get(fault, 1) for fault in drawn if fault) + drawn.count(None)
        assert "go wrong on purpose" in server.said()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(what: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(what())


def below(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in found.split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_server_that_is_killed_leaves_its_bill_and_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path, "source=embedded", "charges=charges.txt") as server:
        httpx.post(f"{server.url}/classify", content=png(levels(1)[0]), timeout=60).raise_for_status()
        children = below(server.process.pid)
        assert len(children) >= 2
        server.process.kill()
        server.process.wait()
        assert wait_until(lambda: not any(map(alive, children)))
        assert server.charged() == [1]
        port = server.url.rpartition(":")[2]
        with serving(tmp_path, "source=embedded", "charges=charges.txt", f"port={port}") as again:
            assert again.url == server.url
            httpx.post(f"{again.url}/classify", content=png(levels(1)[0]), timeout=60).raise_for_status()
            assert again.charged() == [1, 1]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_ends_it_and_so_does_the_end_of_the_model(tmp_path: Path) -> None:
    with serving(tmp_path, "source=embedded") as server:
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        assert server.process.wait(timeout=30) == 0
    with serving(tmp_path, "source=embedded") as server:
        os.killpg(server.process.pid, signal.SIGTERM)  # as a service manager does
        assert server.process.wait(timeout=30) == 0
    with serving(tmp_path, "source=embedded") as server:
        for child in below(server.process.pid):
            command = Path(f"/proc/{child}/cmdline").read_text()
            if "spawn_main" in command:
                os.kill(child, signal.SIGKILL)
        assert server.process.wait(timeout=30) == 2
        assert "error: the process of the model has ended" in server.said()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs the command in this process: exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["reprogram-serve", *arguments])
        code = 0
        try:
            serve.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, "".join(capfd.readouterr())

    return command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of source and run"),
        (["source=embedded", "run=x"], "expected one of source and run"),
        (["source=embeded"], "did you mean embedded"),
        (["source=embedded", "prot=1"], "did you mean port"),
        (["source=embedded", "port=eighty"], "port: expected a whole number in 0..65535, got 'eighty'"),
        (["source=embedded", "port=70000"], "port: expected a whole number in 0..65535, got 70000"),
        (["source=embedded", "port=true"], "port: expected a whole number"),
        (["source=embedded", "host=192.0.2.1"], "host, port: cannot listen at 192.0.2.1:8000"),
        (["source=embedded", "max_batch_size=0"], "max_batch_size: expected a whole number in 1.."),
        (["source=embedded", "timeout=nan"], "timeout: expected a number"),
        (["source=embedded", "batch_timeout=31"], "batch_timeout: expected a number in 0..30.0, got 31"),
        (["source=embedded", "key_env=NOT_SET_ANYWHERE"], "key_env: expected the NAME of an environment variable"),
        (["source=embedded", "charges=no/where.txt"], "charges: cannot write no/where.txt"),
        (["source=embedded", "faults.nan=2"], "faults.nan: expected a rate in [0, 1], got 2"),
        (["source=embedded", "faults.slow=often"], "faults.slow: expected float, got 'often'"),
        (["source=embedded", "faults=null"], "faults: expected a block of keys, got None"),
        (["source=embedded", "accelerator=gpu"], "GPU"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message(arguments: list[str], message: str, run: Any) -> None:
    if "accelerator=gpu" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, said = run(*arguments)
    assert code == 2
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source=torchvision", "source.weights=none.pth"], "none.pth"),
        (["source=timm"], "source.name: is required"),
        (["run=nowhere"], "nowhere: expected a finished run"),
    ],
    ids=["weights", "name", "run"],
)
def test_a_model_that_cannot_be_loaded_gets_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reprogram.commands.serve", "port=0", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_missing_library_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litserve", None)
    for name in [name for name in sys.modules if name.startswith("reprogram.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    code, said = run("source=embedded")
    assert code == 2
    assert "litserve" in said
    assert "pip install 'reprogram[serve]'" in said


def test_help_reads_as_a_manual_page(run: Any) -> None:
    code, said = run("--help")
    assert code == 0
    for word in ("NAME", "EXAMPLES", "reprogram-serve run=", "POST /classify", "key_env: null", "status_429: 0.0"):
        assert word in said
