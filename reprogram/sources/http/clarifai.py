"""Clarifai: a classifier of the community or of one's own."""

import base64
import json
from typing import Any
from urllib.parse import quote

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Adapter, Answer, Images, Reply, Request, UnusableReply
from reprogram.sources.http.scores import labelled_objects, shown

SUCCESS = 10000
MOST_IMAGES = 128
MOST_CONCEPTS = 200


class Clarifai(Adapter):
    """PostModelOutputs of API v2; the reply has the likeliest concepts, each with a value in [0, 1].

    Every image has a status of its own in the reply. If one failed, so did the request: it is sent again with all its
    images, so few images a request lose less.

    Args:
        user: Owner of the app.
        app: App that holds the model.
        model: Id of the model.
        version: Id of its version; ``None``: the newest, which may change between two requests.
        max_concepts: Concepts reported, 1 to 200; ``None``: as the service has it, which is 20.
        images_per_request: Most images of one request, 1 to 128.

    Raises:
        ConfigError: If a number is out of range.

    Reference:
        https://docs.clarifai.com/api-guide/predict/images and .../prediction-parameters (request),
        https://docs.clarifai.com/resources/api-overview/api-outputs and .../status-codes (reply). That outputs come in
        the order of the inputs is how all official examples use them, and not stated; which failed requests are charged
        is not documented there.
    """

    key_header = ("Authorization", "Key ")

    def __init__(
        self,
        user: str,
        app: str,
        model: str,
        version: str | None = None,
        max_concepts: int | None = None,
        images_per_request: int = 16,
    ) -> None:
        if max_concepts is not None and not 1 <= max_concepts <= MOST_CONCEPTS:
            raise ConfigError(
                f"source.adapter.max_concepts: expected a whole number in 1..{MOST_CONCEPTS}, or null, "
                f"got {max_concepts}"
            )
        if not 1 <= images_per_request <= MOST_IMAGES:
            raise ConfigError(
                f"source.adapter.images_per_request: expected a whole number in 1..{MOST_IMAGES}, "
                f"got {images_per_request}"
            )
        self.user, self.app, self.model, self.version = user, app, model, version
        self.max_concepts, self.most = max_concepts, images_per_request

    @property
    def identity(self) -> str:
        """Model, version and number of concepts."""
        return repr(("clarifai", self.user, self.app, self.model, self.version, self.max_concepts))

    def request(self, images: Images) -> Request:
        """Posts images as base64."""
        parts = {"users": self.user, "apps": self.app, "models": self.model, "versions": self.version}
        path = "/".join(f"{kind}/{quote(name, safe='')}" for kind, name in parts.items() if name is not None)
        files = (base64.b64encode(file).decode() for file in images.files)
        asked: dict[str, Any] = {"inputs": [{"data": {"image": {"base64": file}}} for file in files]}
        if self.max_concepts is not None:
            asked["model"] = {"output_info": {"output_config": {"max_concepts": self.max_concepts}}}
        return Request(f"v2/{path}/outputs", json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def read(self, reply: Reply, count: int) -> list[Answer]:
        """Concepts by name.

        Raises:
            UnusableReply: If the reply is something else, or an image of it failed.
        """
        said = reply.json()
        if not isinstance(said, dict):
            raise UnusableReply(f"expected an object with outputs, got {shown(said)}")
        outputs = said.get("outputs")
        outputs = outputs if isinstance(outputs, list) else []
        for index, output in enumerate(outputs):
            _expect_success(output, f" of image {index + 1} of {count}")
        _expect_success(said, "")
        if len(outputs) != count:
            raise UnusableReply(f"expected {count} outputs, got {len(outputs)}")
        return [_concepts(output) for output in outputs]


def _expect_success(said: Any, of: str) -> None:
    status = said.get("status") if isinstance(said, dict) else None
    if not isinstance(status, dict) or status.get("code") != SUCCESS:
        raise UnusableReply(f"expected the status code {SUCCESS}{of}, got {shown(status)}")


def _concepts(output: Any) -> Answer:
    data = output.get("data")
    return labelled_objects(data.get("concepts") if isinstance(data, dict) else data, "name", "value")
