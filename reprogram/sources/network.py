"""A source model around any classification network."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError, ShapeError, SourceError
from reprogram.sources.base import SourceModel
from reprogram.types import SourceSpec


class NetworkSource(SourceModel):
    """Freezes a network that maps normalised images to class logits.

    Args:
        name: Shown in tables and records.
        network: Takes normalised images [B, 3, H, W], returns logits [B, K_s].
        image_size: Height and width of the input (pixels).
        mean: Per-channel mean that the network was trained with, of pixels in [0, 1].
        std: Per-channel standard deviation, likewise, > 0.
        class_names: K_s names in output order; ``None``: numbered.
        feature_dim: Width of the penultimate features, if they can be reached.
        facts: What else the answers depend on, beside weights, size and normalisation: part of the fingerprint.

    Raises:
        ConfigError: If mean, std or image_size cannot work.
        SourceError: If the network does not return one finite logit for each class name, or only one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        network: nn.Module,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        feature_dim: int | None = None,
        facts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        expect_normalisation(name, mean, std)
        if len(image_size) != 2 or min(image_size) < 1:
            raise ConfigError(f"{name}: expected image_size=[height,width] in pixels, got {list(image_size)}")
        height, width = int(image_size[0]), int(image_size[1])
        self.network = network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([float(m) for m in mean]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([float(s) for s in std]).view(1, 3, 1, 1), persistent=False)
        self.train(False)
        logits = self._probe(name, (height, width))
        names = expect_classes(name, logits.shape[1], class_names)
        self.spec = SourceSpec(name, (height, width), names, feature_dim, differentiable=logits.requires_grad)
        self._fingerprint = fingerprint(network, (height, width, *map(float, mean), *map(float, std), *facts))

    def forward(self, images: Tensor) -> Tensor:
        """Normalises, scores, returns log-probabilities."""
        self.expect_images(images)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits.to(torch.promote_types(images.dtype, torch.float32)).log_softmax(dim=1)

    def expect_images(self, images: Tensor) -> None:
        """Refuses what is no batch of canvases.

        Raises:
            ShapeError: Unless images are [B, 3, H, W] of this source's size.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.spec.image_size):
            raise ShapeError(
                f"{self.spec.name}: expected images [B, 3, {self.spec.image_size[0]}, {self.spec.image_size[1]}], "
                f"got {list(images.shape)}; place target images on the canvas first"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights as loaded, input size and normalisation; the same on every machine."""
        return self._fingerprint

    def _probe(self, name: str, size: tuple[int, int]) -> Tensor:
        """Asks the network for one image: logits [1, K_s], with a graph if a gradient reaches the pixels."""
        image = (torch.full((1, 3, *size), 0.5) - self.mean).requires_grad_()
        try:
            with torch.enable_grad():
                logits = self.network(image)
        except (RuntimeError, AssertionError) as error:  # vision transformers assert their input size
            raise SourceError(
                f"{name}: cannot score an image of {size[0]}x{size[1]} pixels ({error}); set source.image_size"
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise SourceError(f"{name}: expected logits [1, K] for one image, got {got}; wrap the network")
        if logits.isnan().any():
            raise SourceError(f"{name}: expected logits of a grey image, got NaN; see to the weights and source.std")
        return logits


def expect_normalisation(name: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses what pixels cannot be normalised by.

    Raises:
        ConfigError: Unless these are three finite means and three finite positive standard deviations.
    """
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ConfigError(
            f"{name}: expected three means (source.mean) and three positive standard deviations (source.std), "
            f"got {list(mean)}, {list(std)}"
        )


def expect_classes(name: str, count: int, given: Sequence[str] | None) -> tuple[str, ...]:
    """Names of so many outputs: those given, or numbers.

    Raises:
        SourceError: If there are fewer than two outputs, or not one for each name.
    """
    if count < 2:
        raise SourceError(f"{name}: expected two or more outputs, got {count}; give the network one for each class")
    names = tuple(f"class_{index}" for index in range(count)) if given is None else tuple(map(str, given))
    if len(names) != count:
        raise SourceError(
            f"{name}: expected {len(names)} outputs, one for each class name, got {count}; set source.class_names"
        )
    return names


def fingerprint(network: nn.Module, facts: Sequence[object] = ()) -> str:
    """Hashes a network's state, name by name, and the facts that go with it."""
    digest = hashlib.sha256(repr(tuple(facts)).encode())
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
