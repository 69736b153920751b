"""Azure Custom Vision, as its specification has it."""

import json
from typing import Any

import pytest
import torch

from reprogram.sources.http.adapter import Images, Reply, UnusableReply
from reprogram.sources.http.custom_vision import CustomVision

PROJECT = "64b822c5-8082-4b36-a426-27225f4aa18c"
ANSWER = {  # of the specification's example, shortened
    "id": "951098b2-9b69-427b-bddb-d5cb618874e3",
    "project": PROJECT,
    "iteration": "fe1e83c4-6f50-4899-9544-6bb08cf0e15a",
    "created": "2018-01-31T20:21:26Z",
    "predictions": [
        {"tagId": "b5f7e6a2-a481-49a6-afec-a7cef1af3544", "tagName": "Tag 1", "probability": 1},
        {"tagId": "45619cda-d1c9-4bc8-a3e1-87c5d81adbc3", "tagName": "Tag 2", "probability": 3.60627153e-12},
    ],
}


def read(said: Any) -> Any:
    return CustomVision(PROJECT, "first").read(Reply(json.dumps(said).encode(), {}), 1)


@pytest.mark.parametrize(("kept", "end"), [({}, "/image/nostore"), ({"store_images": True}, "/image")])
def test_images_are_kept_by_the_service_only_if_asked(kept: dict[str, bool], end: str) -> None:
    images = Images(torch.rand(1, 3, 6, 5), "jpeg")
    sent = CustomVision(PROJECT, "my model/2", **kept).request(images)
    assert sent.path == f"customvision/v3.0/Prediction/{PROJECT}/classify/iterations/my%20model%2F2{end}"
    assert (sent.method, sent.headers) == ("POST", {"Content-Type": "application/octet-stream"})
    assert sent.content == images.files[0]


def test_tags_are_read() -> None:
    assert read(ANSWER) == [{"Tag 1": 1.0, "Tag 2": 3.60627153e-12}]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"code": "BadRequestImageFormat", "message": "Bad Image Format"}, r"with predictions, got .*BadRequestImage"),
        ([], r"expected an object with predictions"),
        (ANSWER | {"predictions": []}, r"at least one label"),
        (ANSWER | {"predictions": None}, r"list of objects with tagName and probability, got null"),
        (ANSWER | {"predictions": [{"tagName": None, "probability": 0.5}]}, r"expected a text as label"),
        (ANSWER | {"predictions": [{"tagName": "a", "probability": 0.5}] * 2}, r'every label once, got "a" twice'),
    ],
)
def test_other_replies_are_refused(said: Any, message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        read(said)


def test_the_interface_knows_what_it_is() -> None:
    adapter = CustomVision(PROJECT, "first")
    assert adapter.key_header == ("Prediction-Key", "")
    assert (adapter.most, adapter.says_labels, adapter.has_scores) == (1, True, True)
    assert adapter.identity != CustomVision(PROJECT, "second").identity
    assert adapter.identity == CustomVision(PROJECT, "first", store_images=True).identity
