"""Hugging Face's schema of image classification, as its documentation has it."""

import base64
import json
from typing import Any

import pytest
import torch
from torchvision.io import decode_image

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Images, Reply, UnusableReply
from reprogram.sources.http.hugging_face_api import HuggingFaceApi

LEVELS = torch.randint(0, 256, (1, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ANSWER = [{"label": "tabby, tabby cat", "score": 0.75}, {"label": "tiger cat", "score": 0.125}]


def images(encoding: str = "png") -> Images:
    return Images(LEVELS / 255, encoding)


def decoded(file: bytes) -> torch.Tensor:
    return decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8))


def reply(said: Any) -> Reply:
    return Reply(said if isinstance(said, bytes) else json.dumps(said).encode(), {})


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_the_file_is_the_body(encoding: str) -> None:
    sent = HuggingFaceApi().request(images(encoding))
    assert (sent.method, sent.path, sent.headers) == ("POST", "", {"Content-Type": f"image/{encoding}"})
    assert sent.content == images(encoding).files[0]
    if encoding == "png":
        assert torch.equal(decoded(sent.content), LEVELS[0])


def test_parameters_need_json() -> None:
    sent = HuggingFaceApi(top_k=7).request(images())
    body = json.loads(sent.content)
    assert sent.headers == {"Content-Type": "application/json"}
    assert body.keys() == {"inputs", "parameters"}
    assert body["parameters"] == {"top_k": 7}
    assert torch.equal(decoded(base64.b64decode(body["inputs"], validate=True)), LEVELS[0])


@pytest.mark.parametrize("said", [ANSWER, [ANSWER]])
def test_labels_are_read(said: Any) -> None:
    assert HuggingFaceApi().read(reply(said), 1) == [{"tabby, tabby cat": 0.75, "tiger cat": 0.125}]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"error": "Model x is currently loading", "estimated_time": 20.0}, r"objects with label and score.*loading"),
        ([], r"at least one label"),
        ([[]], r"at least one label"),
        ([ANSWER, ANSWER], r"expected a list of objects"),
        ([ANSWER[0], ANSWER[0]], r"every label once"),
        ([{"label": "a", "score": 3.2}], r"score in \[0, 1\]"),
        ([{"label": "a", "score": 0.5, "box": {}}, "b"], r"expected a list of objects"),
        (b"<html>gone</html>", r"expected JSON, got '<html>gone</html>'"),
        (b'[{"label": "a", "sc', r"expected JSON"),
        (b"", r"expected JSON, got nothing"),
    ],
)
def test_other_replies_are_refused(said: Any, message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        HuggingFaceApi().read(reply(said), 1)


def test_the_number_of_labels_is_part_of_the_identity() -> None:
    assert HuggingFaceApi().identity != HuggingFaceApi(5).identity
    with pytest.raises(ConfigError, match=r"source\.adapter\.top_k: expected a whole number >= 1, or null, got 0"):
        HuggingFaceApi(0)


def test_the_interface_knows_what_it_is() -> None:
    adapter = HuggingFaceApi()
    assert (adapter.most, adapter.says_labels, adapter.has_scores) == (1, True, True)
    assert adapter.encodings == ("png", "jpeg")
    assert adapter.key_header == ("Authorization", "Bearer ")
    assert adapter.question() is None
