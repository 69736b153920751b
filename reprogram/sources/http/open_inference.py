"""The Open Inference Protocol, also called KServe v2: tensors or files in, a tensor of scores out."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Adapter, Answer, Facts, Images, Reply, Request, UnusableReply
from reprogram.sources.http.scores import shown
from reprogram.sources.http.tensor_reply import DTYPES, output_of
from reprogram.sources.onnx import LAYOUTS, OUTPUTS

CONTENTS = ("tensor", "files")
DATATYPES = ("FP32", "UINT8")
ALSO = {"OpenVINO": ("BYTES",), "reprogram": (*DATATYPES, "BYTES")}
"""What servers take besides the one datatype that their metadata can list, by their ``platform``."""


class OpenInference(Adapter):
    """Triton, MLServer, TorchServe behind KServe, and whatever else speaks the protocol over REST.

    The model takes one input, images [B, 3, H, W] or [B, H, W, 3], or files: BYTES [B], or [B, 1] where its metadata
    says so. It returns scores [B, K_s], or [K_s] of a single image. Metadata that name no tensors, as those of MLServer
    and TorchServe unless they are told, are taken for no facts.

    Args:
        model: Its name on the server.
        version: Which version; ``None``: as the server chooses.
        input_name: Of the images.
        output_name: Of the scores.
        outputs: What the scores are: ``logits``, ``probabilities`` or ``log_probabilities``. It is not guessed.
        content: ``tensor``, or ``files`` of PNG or JPEG.
        datatype: Of a tensor: ``FP32``, in [0, 1] before normalisation, or ``UINT8``, in 0..255.
        layout: Of a tensor: ``nchw`` or ``nhwc``.
        mean: Normalisation of pixels in [0, 1] before an FP32 tensor is sent; [0, 0, 0] if the server does it.
        std: Likewise, [1, 1, 1] if the server does it.
        binary: Whether tensors travel as bytes after the JSON (the binary tensor data extension: Triton, KServe), or
            within it, files as base64 (MLServer, TorchServe).
        images_per_request: Most images of one request, >= 1; ``None``: any number.

    Raises:
        ConfigError: If a value is none of those above.

    Reference:
        https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and
        https://github.com/kserve/kserve, docs/predict-api/v2/required_api.md (paths, JSON, data types);
        https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
        (bytes after the JSON). BF16 is Triton's, and only in bytes; base64 with ``content_type`` is MLServer's:
        https://docs.seldon.ai/mlserver/user-guide/content-type. MLServer's own REST server is not known to read bytes.
        Files where the metadata list a tensor are OpenVINO's:
        https://docs.openvino.ai/2024/ovms_docs_binary_input_kfs.html.
    """

    says_labels = False

    def __init__(
        self,
        model: str,
        version: str | int | None = None,
        input_name: str = "input",
        output_name: str = "output",
        outputs: str = "logits",
        content: str = "tensor",
        datatype: str = "FP32",
        layout: str = "nchw",
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        binary: bool = True,
        images_per_request: int | None = 8,
    ) -> None:
        for key, value, choices in (
            ("outputs", outputs, OUTPUTS),
            ("content", content, CONTENTS),
            ("datatype", datatype, DATATYPES),
            ("layout", layout, LAYOUTS),
        ):
            if value not in choices:
                raise ConfigError(f"source.adapter.{key}: expected one of {', '.join(choices)}, got '{value}'")
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ConfigError(
                "source.adapter.mean and source.adapter.std: expected three means and three positive standard "
                f"deviations, got {list(mean)}, {list(std)}"
            )
        plain = not any(mean) and all(one == 1 for one in std)
        if not plain and (content, datatype) != ("tensor", "FP32"):
            raise ConfigError(
                "source.adapter.mean and source.adapter.std: expected [0,0,0] and [1,1,1], since only an FP32 tensor "
                f"can be normalised before it is sent, got {list(mean)}, {list(std)}"
            )
        if images_per_request is not None and images_per_request < 1:
            raise ConfigError(
                f"source.adapter.images_per_request: expected a whole number >= 1, or null, got {images_per_request}"
            )
        self.model, self.version = model, None if version is None else str(version)
        self.input_name, self.output_name = input_name, output_name
        self.outputs, self.content, self.layout, self.binary = outputs, content, layout, binary
        self.datatype = "BYTES" if content == "files" else datatype
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._plain = plain
        self.most = images_per_request
        eight_bits = content == "tensor" and datatype == "UINT8"  # of which ``png`` says as much
        self.encodings = ("png", "jpeg") if content == "files" else ("png",) if eight_bits else ("float", "png")
        self._ones: list[int] = []  # behind the B of files

    @property
    def identity(self) -> str:
        """Model, version, tensors and normalisation."""
        tensors = (self.input_name, self.output_name, self.outputs, self.datatype, self.layout, self.mean, self.std)
        return repr(("open_inference", self.model, self.version, *tensors))

    def request(self, images: Images) -> Request:
        """Posts images, and asks for the one output."""
        data, shape = self._data(images)
        given: dict[str, Any] = {"name": self.input_name, "shape": shape, "datatype": self.datatype}
        asked: dict[str, Any] = {"inputs": [given], "outputs": [{"name": self.output_name}]}
        path = f"{self._path}/infer"
        if not isinstance(data, bytes):
            given["data"] = data
            if self.content == "files":
                given["parameters"] = {"content_type": "base64"}
            return Request(path, json.dumps(asked).encode(), {"Content-Type": "application/json"})
        given["parameters"] = {"binary_data_size": len(data)}
        asked["parameters"] = {"binary_data_output": True}
        head = json.dumps(asked).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Request(path, head + data, headers)

    def read(self, reply: Reply, count: int) -> list[Answer]:
        """The scores of each image, [K_s].

        Raises:
            UnusableReply: If the reply does not hold the output, or not of so many images.
        """
        return list(output_of(reply, self.output_name, count))

    def question(self) -> Request:
        """Asks for the metadata of the model."""
        return Request(self._path, method="GET")

    def facts(self, reply: Reply) -> Facts:
        """Classes, size of the images, and version, as far as the metadata say.

        Raises:
            ConfigError: If the model is there, but an argument does not fit it.
            UnusableReply: If these are no metadata, or those of a model that cannot be used.
        """
        said = reply.json()
        if not isinstance(said, dict) or "name" not in said:
            raise UnusableReply(f"expected the metadata of {self.model}, got {shown(said)}")
        listed = said.get("versions")
        versions = [str(version) for version in listed] if isinstance(listed, list) else []
        if self.version is not None and versions and self.version not in versions:
            raise ConfigError(f"source.adapter.version: expected one of {', '.join(versions)}, got '{self.version}'")
        also = ALSO.get(str(said.get("platform")), ())
        size = self._image_size(_tensor(said, "input", self.input_name), self.datatype in also)
        classes = self._classes(_tensor(said, "output", self.output_name))
        return Facts(classes, size, self.version if self.version is not None else ", ".join(versions))

    @property
    def _path(self) -> str:
        version = "" if self.version is None else f"/versions/{quote(self.version, safe='')}"
        return f"v2/models/{quote(self.model, safe='')}{version}"

    def _data(self, images: Images) -> tuple[bytes | list[Any], list[int]]:
        """What goes into the input, and its shape."""
        if self.content == "files":
            shape = [len(images), *self._ones]
            if self.binary:  # each file behind its length
                return b"".join(len(file).to_bytes(4, "little") + file for file in images.files), shape
            return [base64.b64encode(file).decode() for file in images.files], shape
        values = images.tensor
        if self.datatype == "UINT8":
            values = (values * 255).round().to(torch.uint8)
        elif not self._plain:
            values = (values - _channels(self.mean)) / _channels(self.std)
        values = values.permute(LAYOUTS[self.layout]).contiguous()
        return values.numpy().tobytes() if self.binary else values.flatten().tolist(), list(values.shape)

    def _image_size(self, tensor: tuple[str, list[int]] | None, also: bool) -> tuple[int, int] | None:
        """Checks what the model takes; the height and width that it fixes.

        Args:
            tensor: Datatype and shape of the input.
            also: Whether the server takes our datatype, whatever that of the model is.
        """
        if tensor is None:
            return None
        datatype, shape = tensor
        if datatype != self.datatype and not also:
            raise self._other_datatype(datatype)
        if datatype == "BYTES":
            if len(shape) not in (1, 2):
                raise UnusableReply(f"expected an input [B] or [B, 1] of files, got {shape}")
            self._ones = [1] * (len(shape) - 1)
        elif len(shape) != 4:
            raise UnusableReply(f"expected an input [B, 3, H, W] or [B, H, W, 3], got {shape}")
        if shape[0] > 1:
            raise UnusableReply(f"expected an input of any number of images, or of one, got {shape}")
        if shape[0] == 1 and self.most != 1:
            raise ConfigError(f"source.adapter.images_per_request: expected 1, for an input {shape}, got {self.most}")
        if datatype == "BYTES":
            return None
        _, channels, height, width = (shape[LAYOUTS[self.layout].index(axis)] for axis in range(4))
        if channels not in (3, -1):
            raise ConfigError(f"source.adapter.layout: expected 3 channels, got {shape} as {self.layout}")
        return (height, width) if min(height, width) > 0 else None

    def _other_datatype(self, datatype: str) -> ConfigError | UnusableReply:
        """What is wrong with ours, where the model takes this one."""
        if self.content == "tensor" and datatype in DATATYPES:
            return ConfigError(f"source.adapter.datatype: expected {datatype}, got {self.datatype}")
        if datatype in (*DATATYPES, "BYTES"):
            wanted = "files" if datatype == "BYTES" else "tensor"
            return ConfigError(f"source.adapter.content: expected {wanted}, for {datatype}, got {self.content}")
        return UnusableReply(f"expected an input of {', '.join(DATATYPES)} or BYTES, got {datatype}")

    def _classes(self, tensor: tuple[str, list[int]] | None) -> int | None:
        """Checks what the model returns; the number of classes that it fixes."""
        if tensor is None:
            return None
        datatype, shape = tensor
        if datatype not in DTYPES:
            raise UnusableReply(f"expected '{self.output_name}' of {', '.join(DTYPES)}, got {datatype}")
        if len(shape) != 2 and not (len(shape) == 1 and self.most == 1):
            raise UnusableReply(f"expected '{self.output_name}' of shape [B, K], got {shape}; choose output_name anew")
        return shape[-1] if shape[-1] > 0 else None


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _tensor(said: dict[str, Any], kind: str, name: str) -> tuple[str, list[int]] | None:
    """Datatype and shape of a tensor in the metadata, where they list any; -1 is a free size."""
    tensors = said.get(f"{kind}s") or []
    try:
        found = {one["name"]: (str(one["datatype"]), [int(size) for size in one["shape"]]) for one in tensors}
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableReply(f"expected {kind}s with name, datatype and shape, got {shown(tensors)}") from error
    if found and name not in found:
        raise ConfigError(f"source.adapter.{kind}_name: expected one of {', '.join(map(str, found))}, got '{name}'")
    return found.get(name)
