"""Scores in a reply of the Open Inference Protocol: in its JSON, or in bytes after it."""

import math
from typing import Any

import torch
from torch import Tensor

from reprogram.sources.http.adapter import Reply, UnusableReply
from reprogram.sources.http.scores import shown, vector

DTYPES = {"FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64}
HEADER = "inference-header-content-length"


def output_of(reply: Reply, name: str, count: int) -> Tensor:
    """One output of a reply, a row for each image.

    Shapes:
        -> [count, K] float32.

    Raises:
        UnusableReply: If the reply is none of the protocol, or has no such output of so many images.
    """
    head, rest = _parts(reply)
    said = Reply(head, reply.headers).json()
    outputs = said.get("outputs") if isinstance(said, dict) else None
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise UnusableReply(f"expected an object with outputs, got {shown(said)}")
    start = 0
    for output in outputs:
        size = _size(output)
        if output.get("name") == name:
            return _scores(output, name, count, None if size is None else rest[start : start + size])
        start += size or 0
    got = ", ".join(shown(output.get("name")) for output in outputs)
    raise UnusableReply(f"expected the output '{name}', got {got or 'none'}; see source.adapter.output_name")


def _parts(reply: Reply) -> tuple[bytes, bytes]:
    """JSON, and the bytes after it."""
    length = reply.headers.get(HEADER)
    if length is None:
        return reply.content, b""
    if not (length.isascii() and length.isdigit() and int(length) <= len(reply.content)):
        raise UnusableReply(f"expected JSON of the length in {HEADER}, got {length[:20]} of {len(reply.content)} bytes")
    return reply.content[: int(length)], reply.content[int(length) :]


def _size(output: dict[str, Any]) -> int | None:
    """Bytes of an output after the JSON; ``None``: it is within."""
    parameters = output.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise UnusableReply(f"expected a number of bytes as binary_data_size, got {shown(size)}")
    return size


def _scores(output: dict[str, Any], name: str, count: int, data: bytes | None) -> Tensor:
    dtype, shape = DTYPES.get(str(output.get("datatype"))), output.get("shape")
    if dtype is None:
        raise UnusableReply(f"expected '{name}' of {', '.join(DTYPES)}, got {shown(output.get('datatype'))}")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise UnusableReply(f"expected '{name}' of shape [{count}, K], got {shown(shape)}")
    rows = [1, *shape] if len(shape) == 1 else shape
    if len(rows) != 2 or rows[0] != count:
        raise UnusableReply(f"expected '{name}' of shape [{count}, K], got {shape}")
    if data is not None:
        if len(data) != math.prod(rows) * dtype.itemsize:
            raise UnusableReply(f"expected {math.prod(rows) * dtype.itemsize} bytes of '{name}', got {len(data)}")
        return torch.frombuffer(bytearray(data), dtype=dtype).view(rows).float()
    values = vector(output.get("data"), f"'{name}'")
    if values.numel() != math.prod(rows):
        raise UnusableReply(f"expected {math.prod(rows)} numbers in '{name}', got {values.numel()}")
    return values.view(rows).float()
