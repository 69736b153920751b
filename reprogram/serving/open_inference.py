"""The Open Inference Protocol v2 over HTTP: requests read and replies written, without a server.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md; binary data:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprogram.errors import DataError
from reprogram.serving.image_files import decode
from reprogram.serving.model import Answer, Facts

INPUT, OUTPUT = "input", "output"
HEADER = "Inference-Header-Content-Length"
"""Length (bytes) of the JSON that stands before the tensors of a body."""


@dataclass(frozen=True)
class Question:
    """What a request asks.

    Args:
        images: [n, 3, h, w], uint8 or float32 in [0, 1].
        identity: ``id`` of the request, which its reply repeats; ``None``: none.
        binary: Whether the scores are to be behind the JSON of the reply instead of in it.
    """

    images: NDArray[Any]
    identity: str | None
    binary: bool


def metadata(facts: Facts) -> dict[str, Any]:
    """Of a model: what goes in and what comes out."""
    height, width = facts.image_size
    parameters = {
        "datatypes": f"FP32 in [0, 1], UINT8 (value / 255), or BYTES of shape [n]: PNG or JPEG files of "
        f"{'any size' if facts.resizes else f'{height}x{width} pixels'}, in JSON as base64",
        "outputs": facts.outputs,
        **({} if facts.threshold is None else {"threshold": facts.threshold}),
    }
    return {
        "name": facts.name,
        "versions": [facts.version],
        "platform": "reprogram",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, 3, height, width]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(facts.class_names)]}],
        "parameters": parameters,
    }


def read(body: bytes, header_length: str | None, facts: Facts) -> Question:
    """Reads an inference request.

    Args:
        body: JSON, or JSON and behind it the tensors.
        header_length: Of the header ``Inference-Header-Content-Length``; ``None``: it is not there.
        facts: Of the model that is asked.

    Raises:
        DataError: If it is no request to this model.
    """
    length = len(body)
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,12}", header_length) or int(header_length) > length:
            raise DataError(
                f"{HEADER}: expected a length of at most the body's {length} bytes, got {header_length!r:.80}"
            )
        length = int(header_length)
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected an inference request in JSON, got {error}") from error
    tensor = _only(_object(request, "the request"), "inputs", INPUT)
    if tensor is None:
        raise DataError(f"inputs: expected one tensor '{INPUT}', got none")
    asked = _only(request, "outputs", OUTPUT) or {}
    binary = _parameters(asked).get("binary_data", _parameters(request).get("binary_data_output", False))
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise DataError(f"id: expected a text, got {identity!r}")
    return Question(_images(tensor, body[length:], facts), identity, binary is True)


def write(answer: Answer, question: Question, facts: Facts) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the reply to a question."""
    scores = answer.scores.astype("<f4")
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(scores.shape)}
    if question.binary:
        output["parameters"] = {"binary_data_size": scores.nbytes}
    else:
        output["data"] = scores.ravel().tolist()
    reply: dict[str, Any] = {"model_name": facts.name, "model_version": facts.version, "outputs": [output]}
    if question.identity is not None:
        reply["id"] = question.identity
    head = json.dumps(reply).encode()
    if not question.binary:
        return head, {"Content-Type": "application/json"}
    return head + scores.tobytes(), {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(of.get("parameters", {}), "parameters")


def _only(request: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any] | None:
    """The one tensor of a list, which has to be of this name; ``None`` if there is no list."""
    found = request.get(key)
    if found is None:
        return None
    names = [_object(one, key).get("name") for one in found] if isinstance(found, list) else found
    if names != [name]:
        raise DataError(f"{key}: expected one tensor '{name}', got {names!r:.200}")
    tensor: Mapping[str, Any] = found[0]
    return tensor


def _images(tensor: Mapping[str, Any], behind: bytes, facts: Facts) -> NDArray[Any]:
    """[n, 3, h, w] of a tensor, whose data are in it or behind the JSON."""
    kind, shape = tensor.get("datatype"), tensor.get("shape")
    if kind not in ("FP32", "UINT8", "BYTES"):
        raise DataError(f"datatype: expected FP32, UINT8 or BYTES, got {kind!r:.80}")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise DataError(f"shape: expected whole numbers above 0, got {shape!r:.80}")
    expected = [3, *facts.image_size]
    if kind == "BYTES" and len(shape) != 1 and shape[1:] != [1]:
        raise DataError(f"shape: expected [n] for BYTES, got {shape}")
    if kind != "BYTES" and shape[1:] != expected:
        raise DataError(f"shape: expected [n, {', '.join(map(str, expected))}] for {kind}, got {shape}")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None and size != len(behind):
        raise DataError(
            f"binary_data_size: expected {len(behind)}, as many bytes as stand behind the JSON, got {size!r}"
        )
    if size is None and behind:
        raise DataError(f"inputs: expected binary_data_size, since {len(behind)} bytes stand behind the JSON")
    data = tensor.get("data") if size is None else behind
    if kind == "BYTES":
        files = _split(data) if isinstance(data, bytes) else _from_base64(data)
        if len(files) != shape[0]:
            raise DataError(f"data: expected {shape[0]} files, got {len(files)}")
        return np.stack([decode(file, facts) for file in files])
    return _pixels(data, kind, shape)


def _pixels(data: object, kind: str, shape: Sequence[int]) -> NDArray[Any]:
    dtype, count = np.dtype("<f4" if kind == "FP32" else np.uint8), math.prod(shape)
    if isinstance(data, bytes):
        if len(data) != count * dtype.itemsize:
            raise DataError(f"data: expected {count * dtype.itemsize} bytes for {kind} {shape}, got {len(data)}")
        values: NDArray[Any] = np.frombuffer(data, dtype)
    else:
        try:
            values = np.asarray(data).ravel()  # nested or flat
        except ValueError as error:
            raise DataError(f"data: expected numbers for {shape}, got lists of different lengths") from error
        if values.dtype.kind not in ("iuf" if kind == "FP32" else "iu") or values.size != count:
            raise DataError(f"data: expected {count} numbers for {kind} {shape}, got {values.size} {values.dtype}")
    if kind == "UINT8":
        if values.min() < 0 or values.max() > 255:
            raise DataError(f"data: expected UINT8 in 0..255, got {values.min()} to {values.max()}")
    elif not (values.min() >= 0 and values.max() <= 1):  # also true for NaN
        raise DataError(
            f"data: expected FP32 in [0, 1], got {values.min():g} to {values.max():g}; use UINT8 for 0..255"
        )
    return values.astype(dtype).reshape(shape)


def _split(data: bytes) -> list[bytes]:
    """Files of a binary tensor of BYTES: each behind its length, 4 bytes, the lowest first."""
    files, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise DataError(f"data: expected files behind their lengths, got {len(data)} bytes that end within one")
        files.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return files


def _from_base64(data: object) -> list[bytes]:
    listed = data if isinstance(data, list) else []
    texts = [text for part in listed for text in (part if isinstance(part, list) else [part])]  # of shape [n] or [n, 1]
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (ValueError, TypeError) as error:
        raise DataError("data: expected BYTES as texts of base64") from error
