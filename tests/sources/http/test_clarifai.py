"""Clarifai, as its documentation has it."""

import base64
import json
from typing import Any

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Images, Reply, UnusableReply
from reprogram.sources.http.clarifai import Clarifai

OK = {"code": 10000, "description": "Ok"}
FAILED = {"code": 30101, "description": "Input image format unsupported"}


def adapter(**choices: Any) -> Clarifai:
    return Clarifai("clarifai", "main", "general-image-recognition", **choices)


def output(**concepts: float) -> dict[str, Any]:
    found = [{"id": f"ai_{name}", "name": name, "value": value, "app_id": "main"} for name, value in concepts.items()]
    return {"id": "a03a", "status": OK, "data": {"concepts": found}}


def read(said: Any, count: int) -> Any:
    return adapter().read(Reply(json.dumps(said).encode(), {}), count)


def test_images_are_asked_about_together() -> None:
    images = Images(torch.rand(3, 3, 6, 5), "png")
    sent = adapter(version="aa7f/35", max_concepts=200).request(images)
    root = "v2/users/clarifai/apps/main/models/general-image-recognition"
    assert sent.path == f"{root}/versions/aa7f%2F35/outputs"
    assert (sent.method, sent.headers) == ("POST", {"Content-Type": "application/json"})
    body = json.loads(sent.content)
    assert [base64.b64decode(one["data"]["image"]["base64"], validate=True) for one in body["inputs"]] == images.files
    assert body["model"] == {"output_info": {"output_config": {"max_concepts": 200}}}
    plain = adapter().request(images)
    assert plain.path == f"{root}/outputs"
    assert json.loads(plain.content).keys() == {"inputs"}


def test_concepts_are_read_in_the_order_of_the_images() -> None:
    said = {"status": OK, "outputs": [output(train=0.9996, railway=0.9993), output(cat=0.25)]}
    assert read(said, 2) == [{"train": 0.9996, "railway": 0.9993}, {"cat": 0.25}]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"status": {"code": 11005, "description": "Making too many requests"}}, r"code 10000, got .*11005"),
        ({"status": {"code": "CONN_THROTTLED"}, "outputs": []}, r"code 10000, got .*CONN_THROTTLED"),
        ({"status": OK}, r"expected 2 outputs, got 0"),
        ({"status": OK, "outputs": [output(cat=1.0)]}, r"expected 2 outputs, got 1"),
        ({"status": OK, "outputs": [output(cat=1.0)] * 3}, r"expected 2 outputs, got 3"),
        ({"status": OK, "outputs": [output(cat=1.0), None]}, r"of image 2 of 2, got null"),
        (
            {"status": {"code": 10010}, "outputs": [output(cat=1.0), output(cat=1.0) | {"status": FAILED}]},
            r"expected the status code 10000 of image 2 of 2, got .*30101.*unsupported",
        ),
        ({"status": OK, "outputs": [output(), output()]}, r"at least one label"),
        ({"status": OK, "outputs": [{"status": OK, "data": {}}] * 2}, r"with name and value, got null"),
        ({"status": OK, "outputs": [{"status": OK}] * 2}, r"with name and value, got null"),
        ([], r"expected an object with outputs, got \[\]"),
    ],
)
def test_other_replies_are_refused(said: Any, message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        read(said, 2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_concepts", 0, r"max_concepts: expected a whole number in 1\.\.200, or null, got 0"),
        ("max_concepts", 201, r"got 201"),
        ("images_per_request", 0, r"images_per_request: expected a whole number in 1\.\.128, got 0"),
        ("images_per_request", 129, r"got 129"),
    ],
)
def test_wrong_numbers_are_refused(key: str, value: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapter(**{key: value})


def test_the_interface_knows_what_it_is() -> None:
    made = adapter(images_per_request=128)
    assert made.key_header == ("Authorization", "Key ")
    assert (made.most, made.says_labels, made.has_scores) == (128, True, True)
    assert made.identity == adapter().identity
    assert len({adapter().identity, adapter(version="a").identity, adapter(max_concepts=9).identity}) == 3
