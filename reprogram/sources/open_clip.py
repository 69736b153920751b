"""Any CLIP of open_clip as a zero-shot classifier: its class names are whatever one asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from reprogram.errors import ConfigError
from reprogram.sources.clip_text import class_features, expect_templates, load_clip
from reprogram.sources.network import NetworkSource


def open_clip_source(
    name: str,
    weights: str = "openai",
    class_names: str | Sequence[str] = "target",
    templates: Sequence[str] = ("a photo of a {}.",),
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    task_class_names: Sequence[str] | None = None,
) -> NetworkSource:
    """Builds a zero-shot classifier; the text tower is asked once, and not kept.

    logit[k] = exp(logit_scale) <image, text[k]>, with the image features and the mean of text[k] over the templates of
    length one. A bias of the logits (SigLIP) changes no probability and is left out.

    Args:
        name: See ``load_clip``. Weights that were trained with QuickGELU (OpenAI's) get it by their tag; a local file
            of them needs a name that ends in ``-quickgelu``.
        weights: See ``load_clip``.
        class_names: ``target``: those of the target task; ``imagenet``: the 1000 of ImageNet-1k; or a list.
        templates: Prompts, each with one ``{}`` for the class name, in which underscores become spaces.
        image_size: Canvas (pixels); ``None``: the model's own. Position embeddings of transformers are interpolated.
        mean: Normalisation of pixels in [0, 1]; ``None``: the model's own.
        std: Likewise.
        task_class_names: Those of the target task, for ``class_names=target``.

    Raises:
        ConfigError: If a name, a tag or a template cannot work, or open_clip is not installed.
        SourceError: If the weights are neither cached nor downloadable, or do not fit.

    Reference:
        Learning Transferable Visual Models From Natural Language Supervision, Radford et al., ICML 2021,
        arXiv:2103.00020 (section 3.1). Differences: one template by default, where the paper averages up to 80.
    """
    expect_templates(templates, "source")
    names = _names(class_names, task_class_names)
    clip = load_clip(name, weights)
    head = clip.logit_scale.exp() * class_features(clip, names, templates)
    visual: Any = clip.visual
    if image_size is not None:
        _resize(name, visual, image_size)
    return NetworkSource(
        name=Path(name).stem if name.endswith(".json") else name,
        network=ZeroShotNetwork(visual, head.float()),
        image_size=image_size or _pair(visual.image_size),
        mean=mean or clip.mean,
        std=std or clip.std,
        class_names=names,
        feature_dim=head.shape[1],
    )


class ZeroShotNetwork(nn.Module):
    """An image tower and a linear layer that compares its features with those of texts.

    Args:
        visual: Normalised images [B, 3, H, W] -> features [B, F] (or a tuple that starts with them).
        head: [K_s, F] text features times the scale of the logits.
    """

    def __init__(self, visual: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.visual = visual
        self.head = CosineLayer(head.shape[1], head.shape[0], bias=False)
        self.head.weight = nn.Parameter(head)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: normalised images [B, 3, H, W] -> logits [B, K_s]."""
        features = self.visual(x)
        features = features[0] if isinstance(features, tuple) else features
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        logits: Tensor = self.head(nn.functional.normalize(features, dim=1))
        return logits


class CosineLayer(nn.Linear):
    """Computes in float32 at least: CLIP's logits lie near 25 and differ by tenths, too little for bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: [B, F] -> [B, K_s]."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.to(dtype), self.weight.to(dtype))


def _names(class_names: str | Sequence[str], task_class_names: Sequence[str] | None) -> Sequence[str]:
    if class_names == "imagenet":
        found: Sequence[str] = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
        return found
    if class_names == "target":
        if task_class_names is None:
            raise ConfigError("source.class_names: 'target' needs a task; without one, expected imagenet or a list")
        return task_class_names
    if isinstance(class_names, str) or not class_names:
        raise ConfigError(f"source.class_names: expected target, imagenet or a list of names, got {class_names!r}")
    return class_names


def _resize(name: str, visual: Any, size: tuple[int, int]) -> None:
    """Fits position embeddings to another image size; towers that have none, or cannot, are left as they are."""
    trunk: Any = getattr(visual, "trunk", None)  # of a timm network
    if hasattr(trunk, "set_input_size"):
        trunk.set_input_size(size)
    embedding = getattr(visual, "positional_embedding", None)
    if embedding is None:
        return
    patch = _pair(visual.patch_size)
    grid = (size[0] // patch[0], size[1] // patch[1])
    if min(grid) < 1:
        raise ConfigError(f"source.image_size: {name} takes images of at least {list(patch)} pixels, got {list(size)}")
    # in float64: a fingerprint is taken of them, which must not depend on the machine
    old = embedding[1:].T.double().view(1, -1, *_pair(visual.grid_size))
    new = nn.functional.interpolate(old, size=grid, mode="bicubic", antialias=True, align_corners=False)
    visual.positional_embedding = nn.Parameter(torch.cat([embedding[:1], new[0].flatten(1).T.float()]))
    visual.grid_size = grid


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
