"""Hugging Face's schema of image classification: an image in, labels with scores out."""

import base64
import json

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Adapter, Answer, Images, Reply, Request
from reprogram.sources.http.scores import labelled_objects


class HuggingFaceApi(Adapter):
    """Inference Providers, Inference Endpoints and servers of the same schema; the URL names the model.

    The file is the body, one a request; the reply is ``[{"label": ..., "score": ...}, ...]``, in one more list from
    some servers. A model that is being loaded answers ``{"error": ..., "estimated_time": ...}`` with status 503.

    Args:
        top_k: Most labels of a reply, >= 1; ``None``: as many as the service likes, which are five of a transformers
            pipeline. Parameters cannot go beside a file: with it the image goes as base64 in JSON.

    Raises:
        ConfigError: If ``top_k`` is out of range.

    Reference:
        https://huggingface.co/docs/inference-providers/tasks/image-classification (request, parameters, reply). The
        additional list, the reply of a model that is being loaded and what of it is charged are not documented there.
    """

    def __init__(self, top_k: int | None = None) -> None:
        if top_k is not None and top_k < 1:
            raise ConfigError(f"source.adapter.top_k: expected a whole number >= 1, or null, got {top_k}")
        self.top_k = top_k

    @property
    def identity(self) -> str:
        """The number of labels; the model is in the URL."""
        return repr(("hugging_face_api", self.top_k))

    def request(self, images: Images) -> Request:
        """Posts one image."""
        (file,) = images.files
        if self.top_k is None:
            return Request("", file, {"Content-Type": images.media_type})
        asked = {"inputs": base64.b64encode(file).decode(), "parameters": {"top_k": self.top_k}}
        return Request("", json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def read(self, reply: Reply, count: int) -> list[Answer]:
        """Labels with their scores.

        Raises:
            UnusableReply: If the reply is something else.
        """
        del count  # one, by ``most``
        said = reply.json()
        if isinstance(said, list) and len(said) == 1 and isinstance(said[0], list):
            (said,) = said
        return [labelled_objects(said, "label", "score")]
