"""Any network that a function of the user's own returns."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from torch import nn

from reprogram.errors import ConfigError
from reprogram.sources.local_weights import load_local_weights
from reprogram.sources.network import NetworkSource
from reprogram.sources.torchvision import IMAGENET_MEAN, IMAGENET_STD


def module_source(
    target: str,
    image_size: tuple[int, int],
    kwargs: Mapping[str, Any] | None = None,
    weights: str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
) -> NetworkSource:
    """Builds the network that an import path returns.

    Args:
        target: ``package.module.function`` (or class) that returns an ``nn.Module`` giving logits.
        image_size: Canvas (pixels), height and width.
        kwargs: Arguments of the call.
        weights: Local state dict to load; ``None``: the call loads its own.
        mean: Normalisation of pixels in [0, 1]; ImageNet's unless given.
        std: Likewise.
        class_names: ``None``: numbered.
        name: Shown in tables; ``None``: the target.

    Raises:
        ConfigError: If the target cannot be imported or called, or returns something else.
        SourceError: If the weights do not fit, or the network cannot score such an image.
    """
    module_name, _, attribute = target.rpartition(".")
    try:
        function = getattr(import_module(module_name), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"source.target: cannot import '{target}' ({error}); expected package.module.function, with the package "
            "installed or its folder on PYTHONPATH"
        ) from error
    try:
        network = function(**(kwargs or {}))
    except TypeError as error:
        raise ConfigError(f"source.kwargs: {target} does not take {dict(kwargs or {})}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"source.target: expected {target} to return an nn.Module, got {type(network).__name__}")
    if weights is not None:
        load_local_weights(network, weights, target)
    return NetworkSource(name or target, network, image_size, mean, std, class_names)
