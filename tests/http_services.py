"""Services that answer in each schema of ``configs/source/http*.yaml``, from what the images look like."""

import base64
import json
from typing import Any

import torch
from scoring_stub import Says, Script, Sent
from torch import Tensor
from torchvision.io import decode_image

LABELS = ("red", "green", "blue")
SIZE = (6, 5)


def scored(images: Tensor) -> Tensor:
    """Probabilities [B, 3] of images [B, 3, H, W]."""
    return (5 * images.double().mean((2, 3))).softmax(1)


def decoded(files: list[bytes]) -> Tensor:
    return torch.stack([decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8)) for file in files]) / 255


def labelled(files: list[bytes], label: str, score: str) -> list[list[dict[str, Any]]]:
    """A list of objects for each image."""
    return [
        [{label: name, score: value} for name, value in zip(LABELS, row, strict=True)]
        for row in scored(decoded(files)).tolist()
    ]


def open_inference(sent: Sent, before: int) -> Says:
    del before
    if not sent.content:
        tensors = {"inputs": ("input", [-1, 3, *SIZE]), "outputs": ("output", [-1, 3])}
        described = {
            key: [{"name": name, "datatype": "FP32", "shape": shape}] for key, (name, shape) in tensors.items()
        }
        return Says({"name": "colours", "versions": ["1"], **described})
    given = json.loads(sent.content)["inputs"][0]
    logits = scored(torch.tensor(given["data"]).view(given["shape"])).log()
    output = {"name": "output", "datatype": "FP32", "shape": list(logits.shape), "data": logits.flatten().tolist()}
    return Says({"model_name": "colours", "outputs": [output]})


def hugging_face(sent: Sent, before: int) -> Says:
    return Says(labelled([sent.content], "label", "score")[0])


def custom_vision(sent: Sent, before: int) -> Says:
    return Says({"predictions": labelled([sent.content], "tagName", "probability")[0]})


def clarifai(sent: Sent, before: int) -> Says:
    files = [base64.b64decode(one["data"]["image"]["base64"]) for one in json.loads(sent.content)["inputs"]]
    success = {"code": 10000}
    outputs = [{"status": success, "data": {"concepts": found}} for found in labelled(files, "name", "value")]
    return Says({"status": success, "outputs": outputs})


def json_api(sent: Sent, before: int) -> Says:
    return Says({"found": labelled([base64.b64decode(json.loads(sent.content)["image"])], "label", "score")[0]})


SERVICES: dict[str, tuple[Script, dict[str, Any]]] = {
    "http": (open_inference, {"model": "colours", "binary": False}),
    "http_hugging_face": (hugging_face, {}),
    "http_custom_vision": (custom_vision, {"project": "p", "iteration": "i"}),
    "http_clarifai": (clarifai, {"user": "u", "app": "a", "model": "m"}),
    "http_json": (json_api, {"items_at": "found"}),
}
"""By the config's name: what answers, and what a user adds to ``source.adapter``."""
