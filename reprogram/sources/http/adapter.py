"""What differs between scoring APIs: how images are asked about, and where the scores stand in the reply."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.io import encode_jpeg, encode_png

from reprogram.errors import OracleError

Answer = Mapping[str, float] | Tensor
"""Of one image: probabilities by label, of the labels that the API reports (1.0 where it gives a label without a
score), or a vector [K_s] float32 of what ``Adapter.outputs`` says."""


class UnusableReply(OracleError):  # noqa: N818 - it names the reply
    """A reply that arrived whole but is not what the adapter expects: text of what was expected and what was got."""


@dataclass(frozen=True)
class Images:
    """Images of one request.

    Args:
        tensor: [B, 3, H, W] float32 in [0, 1] on the CPU; of 8 bits where the encoding is a file's.
        encoding: ``float``, ``png`` or ``jpeg``.
        jpeg_quality: 1 to 100.
    """

    tensor: Tensor
    encoding: str
    jpeg_quality: int = 90

    def __len__(self) -> int:
        """B."""
        return len(self.tensor)

    @property
    def media_type(self) -> str:
        """Of the files."""
        return f"image/{self.encoding}"

    @cached_property
    def files(self) -> list[bytes]:
        """One PNG or JPEG file for each image."""
        levels = (self.tensor * 255).round().to(torch.uint8)
        if self.encoding == "jpeg":
            return [encode_jpeg(image, quality=self.jpeg_quality).numpy().tobytes() for image in levels]
        return [encode_png(image, compression_level=1).numpy().tobytes() for image in levels]


@dataclass(frozen=True)
class Request:
    """What is sent.

    Args:
        path: Behind ``source.url``; empty: the URL itself.
        content: Body.
        headers: ``Content-Type`` and so on; the key is not the adapter's matter.
        method: ``POST`` or ``GET``.
    """

    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Reply:
    """What came back, with a status of success.

    Args:
        content: Body.
        headers: By names in lower case.
    """

    content: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            UnusableReply: If it is none.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise UnusableReply(f"expected JSON, got {excerpt(self.content)}") from error


@dataclass(frozen=True)
class Facts:
    """What an API says about its model without an image; ``None``: nothing.

    Args:
        num_classes: K_s.
        image_size: Height and width (pixels).
        version: Of the model: part of what a program is valid for.
    """

    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    version: str = ""


class Adapter(ABC):
    """One kind of API. Leaves are final, hold plain arguments, and know nothing of connections, keys or retries.

    Attributes:
        encodings: In which images can be sent, of ``float``, ``png`` and ``jpeg``; the first is the one to recommend.
        most: Most images of one request; ``None``: any number.
        outputs: What a vector holds: ``logits``, ``probabilities`` or ``log_probabilities``; labels have probabilities.
        says_labels: Whether answers are labels; else vectors.
        has_scores: Whether the API says how sure it is; else labels alone.
        key_header: Header that carries the key, and what stands before it.
        free_statuses: Statuses of replies that the API does not charge, as its price list says.
    """

    encodings: tuple[str, ...] = ("png", "jpeg")
    most: int | None = 1
    outputs: str = "probabilities"
    says_labels: bool = True
    has_scores: bool = True
    key_header: tuple[str, str] = ("Authorization", "Bearer ")
    free_statuses: tuple[int, ...] = (429, 503)

    @property
    @abstractmethod
    def identity(self) -> str:
        """All that answers depend on, beside the URL and the encoding: model, version, normalisation."""

    @abstractmethod
    def request(self, images: Images) -> Request:
        """Asks about images, at most ``most``."""

    @abstractmethod
    def read(self, reply: Reply, count: int) -> list[Answer]:
        """The answers to so many images, in their order.

        Raises:
            UnusableReply: If the reply does not hold them; NaN and infinities are found by the caller.
        """

    def question(self) -> Request | None:
        """A request about the model that sends no image and costs nothing; ``None``: the API has none."""
        return None

    def facts(self, reply: Reply) -> Facts:
        """What the reply to ``question`` says.

        Raises:
            UnusableReply: If it is not what the API has.
        """
        del reply
        return Facts()


def excerpt(content: bytes, most: int = 80) -> str:
    """The beginning of a body, for a message."""
    text = " ".join(content[: 4 * most].decode("utf-8", "replace").split())
    return repr(text[:most] + ("..." if len(text) > most or len(content) > 4 * most else "")) if text else "nothing"
