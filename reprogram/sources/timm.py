"""Any timm classifier, with its pretrained weights or a local file."""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torchvision

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.local_weights import load_local_weights
from reprogram.sources.network import NetworkSource


def timm_source(
    name: str,
    weights: str = "pretrained",
    kwargs: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> NetworkSource:
    """Builds a timm classifier.

    Args:
        name: Name for ``timm.create_model``, such as ``mobilenetv2_100``.
        weights: ``pretrained`` (downloaded once by timm), or a local state dict.
        kwargs: Handed to ``timm.create_model``, for instance ``{pad_type: same}``.
        image_size: Canvas (pixels); ``None``: that of timm's record for the weights.
        mean: Normalisation of pixels in [0, 1]; ``None``: that of timm's record.
        std: Likewise.
        class_names: ``None``: the ImageNet-1k names for 1000 outputs, numbers otherwise.

    Raises:
        ConfigError: If timm is not installed, does not know the name, or refuses the kwargs.
        SourceError: If the weights are neither cached nor downloadable, or do not fit.
    """
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ModuleNotFoundError as error:
        raise ConfigError(
            "source=timm: expected the package timm; install it with pip install 'reprogram[timm]'"
        ) from error
    if not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=3)
        raise ConfigError(f"source.name: timm has no model named '{name}'; near: {', '.join(near) or 'none'}")
    pretrained = weights == "pretrained"
    options = {"num_classes": len(class_names), **(kwargs or {})} if class_names else dict(kwargs or {})
    try:
        network = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise ConfigError(f"source.kwargs: {name} does not take {options}: {error}") from error
    except Exception as error:  # the hub client's exceptions differ between versions
        if not pretrained:
            raise
        record = timm.get_pretrained_cfg(name)
        hub = (record and record.hf_hub_id) or f"timm/{name}"
        raise SourceError(
            f"{name}: pretrained weights are neither cached nor downloadable ({error}). Put the file model.safetensors "
            f"of the hub repository {hub} anywhere and set source.weights=FILE, or copy the cache folder {hub_cache()} "
            "from a machine that has it"
        ) from error
    if not pretrained:
        load_local_weights(network, weights, name)
    record = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    if class_names is None and network.num_classes == 1000:
        class_names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    return NetworkSource(
        name=name,
        network=network,
        image_size=image_size or (record["input_size"][1], record["input_size"][2]),
        mean=mean or record["mean"],
        std=std or record["std"],
        class_names=class_names,
        feature_dim=getattr(network, "num_features", None),
    )


def hub_cache() -> Path:
    """Folder in which the hub's client keeps downloaded weights."""
    home = os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", Path(home) / "hub"))
