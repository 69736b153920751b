"""What a network sees before it decides: the input of its final classification layer."""

import torch
from torch import Tensor, nn

from reprogram.errors import SourceError
from reprogram.sources.base import SourceModel
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource


def final_layer(source: SourceModel) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name, within the network, of the last linear layer or 1x1 convolution with one output for each source class.

    Raises:
        SourceError: If the source shows no network, or the network has no such layer.
    """
    inner = source.source if isinstance(source, PreparedSource) else source
    if not isinstance(inner, NetworkSource):
        remedy = "choose one" if source.spec.differentiable else "choose one, and access=white_box"
        raise SourceError(f"{source.spec.name}: expected one network, got only its scores; {remedy}")
    count = source.spec.num_classes
    for name, layer in reversed(list(inner.network.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == count:
            return name, layer
        if isinstance(layer, nn.Conv2d) and layer.out_channels == count and layer.kernel_size == (1, 1):
            return name, layer
    raise SourceError(
        f"{source.spec.name}: expected a linear layer or 1x1 convolution with {count} outputs, one for each class, "
        "got none; its features cannot be reached"
    )


@torch.inference_mode()
def penultimate(source: SourceModel, images: Tensor) -> Tensor:
    """Input of the source's final layer; of a convolution, its mean over the positions.

    Shapes:
        images: [B, 3, H, W] floating, in [0, 1] -> [B, F] float32.

    Raises:
        SourceError: If there is no final layer, or its input is no vector or map for each image.
    """
    name, layer = final_layer(source)
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        source(images)
    finally:
        hook.remove()
    shapes = [list(given.shape) for given in inputs]  # one, or one for each part of the images
    if sum(map(len, inputs)) != len(images) or inputs[0].ndim not in (2, 4):
        raise SourceError(
            f"{source.spec.name}: expected the final layer '{name}' to be asked once, for [{len(images)}, F] or "
            f"[{len(images)}, F, h, w], got {shapes}; its features cannot be reached"
        )
    features = torch.cat(inputs).float()
    return features if features.ndim == 2 else features.mean(dim=(2, 3))
