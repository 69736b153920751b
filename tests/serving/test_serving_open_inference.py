"""Open Inference Protocol v2: what is read, what is refused, what is written."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reprogram.errors import DataError
from reprogram.serving.model import Answer, Facts
from reprogram.serving.open_inference import HEADER, metadata, read, write

FACTS = Facts("toy", ("cat", "dog", "cow"), (2, 4), "log_probabilities", "abc")
SHAPE = (2, 3, 2, 4)
PIXELS = np.arange(48, dtype=np.uint8).reshape(SHAPE)
FLOATS = PIXELS.astype(np.float32) / 255


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def bytes_tensor(*files: bytes) -> bytes:
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def in_json(data: Any, datatype: str = "FP32", shape: Any = SHAPE, **more: Any) -> bytes:
    tensor = {"name": "input", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def in_binary(data: bytes, datatype: str, shape: Any, size: Any = None) -> tuple[bytes, str]:
    parameters = {"binary_data_size": len(data) if size is None else size}
    tensor = {"name": "input", "datatype": datatype, "shape": shape, "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + data, str(len(head))


@pytest.mark.parametrize("data", [FLOATS.tolist(), FLOATS.ravel().tolist()], ids=["nested", "flat"])
def test_floats_in_json_arrive_exactly(data: Any) -> None:
    question = read(in_json(data), None, FACTS)
    assert question.images.dtype == np.float32
    assert np.array_equal(question.images, FLOATS)
    assert (question.identity, question.binary) == (None, False)


def test_bytes_of_pixels_in_json_arrive_exactly() -> None:
    question = read(in_json(PIXELS.tolist(), "UINT8"), None, FACTS)
    assert question.images.dtype == np.uint8
    assert np.array_equal(question.images, PIXELS)


@pytest.mark.parametrize(("array", "datatype"), [(FLOATS, "FP32"), (PIXELS, "UINT8")], ids=["floats", "bytes"])
def test_binary_tensors_arrive_exactly(array: np.ndarray, datatype: str) -> None:
    question = read(*in_binary(array.tobytes(), datatype, SHAPE), FACTS)
    assert question.images.dtype == array.dtype
    assert np.array_equal(question.images, array)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_image_files_arrive_behind_the_json_and_within(shape: list[int]) -> None:
    files = [png(image) for image in PIXELS]
    assert np.array_equal(read(*in_binary(bytes_tensor(*files), "BYTES", shape), FACTS).images, PIXELS)
    texts = [base64.b64encode(file).decode() for file in files]
    data = texts if shape == [2] else [[text] for text in texts]
    assert np.array_equal(read(in_json(data, "BYTES", shape), None, FACTS).images, PIXELS)


@pytest.mark.parametrize(
    ("more", "binary"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "output", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "output"}]}, False),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "output", "parameters": {"binary_data": False}}],
            },
            False,
        ),
    ],
)
def test_the_request_says_whether_the_reply_is_binary(more: dict[str, Any], binary: bool) -> None:
    assert read(in_json(FLOATS.tolist(), **more), None, FACTS).binary is binary


FLAT = FLOATS.ravel().tolist()


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"<html>", None, "expected an inference request in JSON"),
        (b"\xff\xfe", None, "expected an inference request in JSON"),
        (b"[" * 100_000, None, "expected an inference request in JSON"),
        (b"[]", None, "the request: expected a JSON object, got list"),
        (b"{}", None, "expected one tensor 'input', got none"),
        (b'{"inputs": []}', None, "expected one tensor 'input', got []"),
        (b'{"inputs": [1]}', None, "inputs: expected a JSON object, got int"),
        (b'{"inputs": [{"name": "image"}]}', None, r"expected one tensor 'input', got ['image']"),
        (in_json(FLAT, outputs=[{"name": "scores"}]), None, "outputs: expected one tensor 'output', got ['scores']"),
        (in_json(FLAT, id=3), None, "id: expected a text, got 3"),
        (in_json(FLAT, parameters=[]), None, "parameters: expected a JSON object"),
        (in_json(FLAT, "FP16"), None, "datatype: expected FP32, UINT8 or BYTES, got 'FP16'"),
        (in_json(FLAT, shape=[2, 3, 4, 2]), None, "shape: expected [n, 3, 2, 4] for FP32, got [2, 3, 4, 2]"),
        (in_json(FLAT, shape=[0, 3, 2, 4]), None, "shape: expected whole numbers above 0"),
        (in_json(FLAT, shape=None), None, "shape: expected whole numbers above 0, got None"),
        (in_json(FLAT[1:]), None, "data: expected 48 numbers for FP32 [2, 3, 2, 4], got 47 float64"),
        (in_json([FLAT, [1.0]]), None, "got lists of different lengths"),
        (in_json(["a"] * 48), None, "data: expected 48 numbers"),
        (in_json(None), None, "data: expected 48 numbers"),
        (in_json([*FLAT[1:], 1.5]), None, "data: expected FP32 in [0, 1], got"),
        (in_json([*FLAT[1:], float("nan")]), None, "data: expected FP32 in [0, 1], got nan"),
        (in_json([*FLAT[1:], 10**30]), None, "data: expected 48 numbers"),
        (in_json(FLAT, "UINT8"), None, "data: expected 48 numbers for UINT8"),
        (in_json([*range(47), 256], "UINT8"), None, "data: expected UINT8 in 0..255, got 0 to 256"),
        (in_json(["!"], "BYTES", [1]), None, "data: expected BYTES as texts of base64"),
        (in_json(["aGk="], "BYTES", [1]), None, "expected a PNG or JPEG file"),
        (in_json([], "BYTES", [1]), None, "data: expected 1 files, got 0"),
        (in_json([], "BYTES", [1, 2]), None, "shape: expected [n] for BYTES, got [1, 2]"),
        (b"{}", "3", "Inference-Header-Content-Length: expected a length of at most the body's 2 bytes, got '3'"),
        (b"{}", "-1", "Inference-Header-Content-Length"),
        (b"{}", "9" * 5000, "Inference-Header-Content-Length"),
        (*in_binary(FLOATS.tobytes()[4:], "FP32", SHAPE), "data: expected 192 bytes for FP32 [2, 3, 2, 4], got 188"),
        (*in_binary(FLOATS.tobytes(), "FP32", SHAPE, 100), "binary_data_size: expected 192"),
        (*in_binary((FLOATS * 256).tobytes(), "FP32", SHAPE), "data: expected FP32 in [0, 1], got 0 to 47."),
        (in_json(FLAT) + b"more", str(len(in_json(FLAT))), "expected binary_data_size, since 4 bytes stand behind"),
        (*in_binary(b"\x05\x00\x00\x00abc", "BYTES", [1]), "got 7 bytes that end within one"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_request_to_this_model_is_refused(body: bytes, length: str | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(body, length, FACTS)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


SCORES = np.array([[-0.1, -2.5, -7.0], [-1.0, -1.25, -3.0]], dtype=np.float32)


def test_a_reply_in_json_has_the_scores_in_it() -> None:
    question = read(in_json(FLAT, id="q7"), None, FACTS)
    body, headers = write(Answer(SCORES, None), question, FACTS)
    assert headers == {"Content-Type": "application/json"}
    reply = json.loads(body)
    (output,) = reply.pop("outputs")
    assert reply == {"model_name": "toy", "model_version": "abc", "id": "q7"}
    assert np.array_equal(np.array(output.pop("data"), dtype=np.float32), SCORES.ravel())
    assert output == {"name": "output", "datatype": "FP32", "shape": [2, 3]}


def test_a_binary_reply_has_the_scores_behind_the_json() -> None:
    question = read(in_json(FLAT, parameters={"binary_data_output": True}), None, FACTS)
    body, headers = write(Answer(SCORES, None), question, FACTS)
    length = int(headers[HEADER])
    (output,) = json.loads(body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 24}
    assert "data" not in output
    assert np.array_equal(np.frombuffer(body[length:], "<f4").reshape(2, 3), SCORES)


def test_the_metadata_say_what_goes_in_and_what_comes_out() -> None:
    found = metadata(FACTS)
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 2, 4]}]
    assert found["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 3]}]
    assert (found["name"], found["versions"]) == ("toy", ["abc"])
    assert found["parameters"]["outputs"] == "log_probabilities"
    assert "threshold" not in found["parameters"]
    decides = Facts("run", ("no", "yes"), (2, 4), "probabilities", "abc", resizes=True, threshold=0.25)
    assert metadata(decides)["parameters"]["threshold"] == 0.25
