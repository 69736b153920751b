"""An ONNX file: scores without gradients, on this machine."""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reprogram.errors import ConfigError, ShapeError, SourceError
from reprogram.sources.base import SourceModel
from reprogram.sources.network import expect_classes, expect_normalisation
from reprogram.sources.torchvision import IMAGENET_MEAN, IMAGENET_STD
from reprogram.types import SourceSpec

log = logging.getLogger(__name__)

OUTPUTS = ("logits", "probabilities", "log_probabilities")
LAYOUTS = {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}  # what becomes of the axes of [B, 3, H, W]
DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
TOLERANCE = 0.01  # how far the sum of probabilities may be from 1: float16 and a thousand classes
EXTERNAL = re.compile(rb"\n\x08location\x12([\x01-\x7f])")  # key of an external data entry, length of the file's name


class OnnxSource(SourceModel):
    """Runs an ONNX file with onnxruntime on the CPU: no gradient passes, so it is trained behind a black box.

    A file with a fixed batch is run as often as the images need; what the last run has too many rows is filled up.

    Args:
        path: The file; weights that it keeps in files of their own lie beside it.
        outputs: What the file returns: ``logits``, ``probabilities`` or ``log_probabilities``. It is not guessed.
        output_name: Which of several outputs; ``None``: the only one.
        class_names: K_s names in output order; ``None``: numbered.
        mean: Normalisation of pixels in [0, 1] before the file; ImageNet's unless given, [0, 0, 0] if the file does it.
        std: Likewise, [1, 1, 1] if the file does it.
        image_size: Canvas (pixels); ``None``: the size that the file fixes.
        input_layout: ``nchw`` or ``nhwc``.

    Raises:
        ConfigError: If onnxruntime is not installed, or an argument does not fit the file.
        SourceError: If the file is missing, cannot be read, or is no classifier of images.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        path: str,
        outputs: str = "logits",
        output_name: str | None = None,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        image_size: tuple[int, int] | None = None,
        input_layout: str = "nchw",
    ) -> None:
        super().__init__()
        if outputs not in OUTPUTS:
            raise ConfigError(f"source.outputs: expected one of {', '.join(OUTPUTS)}, got '{outputs}'")
        if input_layout not in LAYOUTS:
            raise ConfigError(f"source.input_layout: expected one of {', '.join(LAYOUTS)}, got '{input_layout}'")
        expect_normalisation("source", mean, std)
        file = Path(path).expanduser()
        self.name, self.outputs, self.layout = file.stem, outputs, LAYOUTS[input_layout]
        self._session = _session(file)
        self.register_buffer("mean", torch.tensor([float(m) for m in mean]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([float(s) for s in std]).view(1, 3, 1, 1), persistent=False)
        size = self._read_input(image_size, input_layout)
        self._output = self._read_output(output_name)
        self.train(False)
        with torch.no_grad():
            scores = self._scores(torch.full((1, 3, *size), 0.5))
        if not log_probabilities(scores, outputs, self.name).isfinite().all():
            raise SourceError(f"{self.name}: expected finite scores of a grey image, got {scores[0, :5].tolist()}")
        if outputs == "logits" and scores.min() >= 0 and abs(float(scores.sum()) - 1) < 1e-3:
            log.warning("%s: its logits look like probabilities; if they are, set source.outputs", self.name)
        names = expect_classes(self.name, scores.shape[1], class_names)
        self.spec = SourceSpec(self.name, size, names, feature_dim=None, differentiable=False)
        facts = (outputs, self._output, size, input_layout, tuple(map(float, mean)), tuple(map(float, std)))
        self._fingerprint = _fingerprint(file, repr(facts))

    def forward(self, images: Tensor) -> Tensor:
        """Scores images; the answer has no graph.

        Raises:
            SourceError: If the file fails, or returns something else than ``outputs`` says.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.spec.image_size):
            raise ShapeError(
                f"{self.name}: expected images [B, 3, {self.spec.image_size[0]}, {self.spec.image_size[1]}], "
                f"got {list(images.shape)}; place target images on the canvas first"
            )
        with torch.no_grad():
            log_probs = log_probabilities(self._scores(images), self.outputs, self.name)
        return log_probs.to(images.device, torch.promote_types(images.dtype, torch.float32))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file, the weights beside it, input size, normalisation and what its outputs are."""
        return self._fingerprint

    def _read_input(self, chosen: tuple[int, int] | None, layout: str) -> tuple[int, int]:
        """Checks the input of the file; returns the size of the canvas."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in DTYPES:
            got = ", ".join(f"{found.name} {found.type} {found.shape}" for found in inputs)
            raise SourceError(
                f"{self.name}: expected one input of floating images [B, 3, H, W], got {got}; export the file so"
            )
        self._input, self._dtype = inputs[0].name, DTYPES[inputs[0].type]
        axes = [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape]  # None: free
        self._rows, channels, *fixed = (axes[LAYOUTS[layout].index(axis)] for axis in range(4))
        if channels not in (3, None):
            raise ConfigError(
                f"source.input_layout: expected 3 channels, got {inputs[0].shape} as {layout}; choose another"
            )
        height, width = chosen or fixed
        if height is None or width is None:
            raise ConfigError(
                f"source.image_size: {self.name} takes images of any size; set source.image_size=[height,width]"
            )
        if min(height, width) < 1 or fixed[0] not in (None, height) or fixed[1] not in (None, width):
            raise ConfigError(f"source.image_size: expected {fixed} as in {self.name}, got {[height, width]}")
        return height, width

    def _read_output(self, chosen: str | None) -> str:
        names: list[str] = [found.name for found in self._session.get_outputs()]
        if chosen is None and len(names) != 1:
            raise ConfigError(f"source.output_name: {self.name} has several outputs; choose one of {', '.join(names)}")
        if chosen is not None and chosen not in names:
            raise ConfigError(f"source.output_name: expected one of {', '.join(names)}, got '{chosen}'")
        return chosen or names[0]

    def _scores(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, K_s] as the file returns them, on the CPU."""
        normalised = ((images - self.mean) / self.std).permute(self.layout).to("cpu", self._dtype).contiguous()
        parts = torch.split(normalised, self._rows or max(1, len(images)))
        return torch.cat([self._run(part) for part in parts])

    def _run(self, images: Tensor) -> Tensor:
        rows = self._rows or len(images)
        full = torch.cat([images, images.new_zeros(rows - len(images), *images.shape[1:])])
        try:
            scores = self._session.run([self._output], {self._input: full.numpy()})[0]
        except Exception as error:  # onnxruntime has a type of its own for every kind of failure
            raise SourceError(f"{self.name}: cannot score {rows} images {list(full.shape[1:])} ({error})") from error
        if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.ndim != 2 or len(scores) != rows:
            got = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, np.ndarray) else type(scores).__name__
            raise SourceError(
                f"{self.name}: expected floating scores [{rows}, K] in the output '{self._output}', got {got}"
            )
        found = torch.from_numpy(scores)[: len(images)]
        return found.to(torch.promote_types(found.dtype, torch.float32))


def log_probabilities(scores: Tensor, outputs: str, name: str) -> Tensor:
    """Log-probabilities of what a classifier returns, renormalised; a probability of zero becomes 1e-38.

    Shapes:
        scores: [B, K_s] floating -> [B, K_s].

    Raises:
        SourceError: If there are probabilities that do not sum to one within 0.01.
    """
    if outputs == "logits":
        return scores.log_softmax(dim=1)
    probabilities = scores if outputs == "probabilities" else scores.exp()
    total = probabilities.sum(dim=1)
    if not ((total - 1).abs() <= TOLERANCE).all() or (probabilities < -TOLERANCE).any():
        raise SourceError(
            f"{name}: expected {outputs} of sum one, got a smallest probability of {float(probabilities.min()):.3g} "
            f"and a largest sum of {float(total.max()):.3g}; set source.outputs to what the file returns"
        )
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log().log_softmax(dim=1)


def _session(file: Path) -> Any:
    """An onnxruntime session on as many threads as PyTorch has."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ConfigError(
            "source=onnx: expected the package onnxruntime; install it with pip install 'reprogram[onnx]'"
        ) from error
    if not file.is_file():
        raise SourceError(f"source.path: expected an ONNX file at {file}, found none")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a type of its own for every kind of failure
        raise SourceError(
            f"source.path: cannot read {file} ({error}); is it a complete ONNX file, with its external data beside it, "
            f"of an opset that onnxruntime {onnxruntime.__version__} knows?"
        ) from error


def _fingerprint(file: Path, facts: str) -> str:
    """Hashes the file, the files of weights that it names, and the facts that go with it."""
    content = file.read_bytes()
    digest = hashlib.sha256(facts.encode())
    digest.update(content)
    beside = {content[found.end() : found.end() + found[1][0]] for found in EXTERNAL.finditer(content)}
    for name in sorted(beside):
        with (file.parent / name.decode()).open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()
