"""Any torchvision classifier, with its published weights or a local file."""

from collections.abc import Sequence
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.local_weights import load_local_weights
from reprogram.sources.network import NetworkSource

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def torchvision_source(
    name: str,
    weights: str = "DEFAULT",
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> NetworkSource:
    """Builds a torchvision classifier.

    Args:
        name: Name in torchvision's model list, such as ``resnet18``.
        weights: Name in the model's weights enum (downloaded once by torchvision), or a local state dict.
        image_size: Canvas (pixels); ``None``: the size the weights were published for.
        mean: Normalisation of pixels in [0, 1]; ``None``: the published one.
        std: Likewise.
        class_names: ``None``: those of the published weights.

    Raises:
        ConfigError: If torchvision has no such classifier.
        SourceError: If the weights are neither cached nor downloadable, or do not fit.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ConfigError(_unknown("torchvision classifier", "source.name", name, names))
    enum = torchvision.models.get_model_weights(name)
    published = enum[weights] if weights in enum.__members__ else enum["DEFAULT"]
    if weights in enum.__members__:
        network = _download(name, published)
    elif "." not in weights and "/" not in weights:
        raise ConfigError(_unknown(f"weights of {name}", "source.weights", weights, list(enum.__members__)))
    else:
        head = {} if class_names is None else {"num_classes": len(class_names)}
        # torchvision itself sets transform_input for its weights: they expect another normalisation
        init = {"init_weights": False, "transform_input": True} if name in ("inception_v3", "googlenet") else {}
        network = torchvision.models.get_model(name, weights=None, **head, **init)
        load_local_weights(network, weights, name)
    preset = published.transforms()
    return NetworkSource(
        name=name,
        network=network,
        image_size=image_size or (preset.crop_size[0], preset.crop_size[0]),
        mean=mean or preset.mean,
        std=std or preset.std,
        class_names=class_names or published.meta["categories"],
    )


def _download(name: str, weights: torchvision.models.WeightsEnum) -> nn.Module:
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a damaged download is a RuntimeError
        file = urlparse(weights.url).path.rsplit("/", 1)[-1]
        raise SourceError(
            f"{name}: weights {weights} are neither cached nor downloadable ({error}). Put the file {file} (from "
            f"{weights.url}) into {torch.hub.get_dir()}/checkpoints/, or set source.weights=FILE to a local state dict"
        ) from error
    return network


def _unknown(what: str, key: str, got: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(got, known, n=3) or list(known)[:5]
    return f"{key}: there is no {what} named '{got}'; near: {', '.join(near)}"
