"""A convolution with frozen weights on the CPU, fused with what surrounds it; only its input has a gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Bounds = tuple[float, float]
"""Between which an activation passes its input on; a ReLU's upper one is infinite."""

RELU: Bounds = (0.0, float("inf"))

FEW_CHANNELS = 4  # of an image: a gradient with so few is slow to write where the stride is not 1

_PACKED = (torch.float32, torch.bfloat16, torch.float16)


class FusedConvolution(nn.Module):
    """activation(convolution(x) + other), with weights that are packed once for each direction.

    The gradient of x is a convolution with the mirrored kernel, if the stride is 1. A stem of stride s that reads an
    image is a convolution of stride 1 on the s * s phases of the image (``pixel_unshuffle``), so its gradient is one
    too. Elsewhere it is left to PyTorch.

    Args:
        convolution: Gives the weights, padding and so on.
        shape: Of x, [B, C, H, W]: what the packing is best for; other B are allowed.
        output: Of the result, likewise.
        bounds: Of the activation; ``None``: none.

    Attributes:
        masks: Whether the backward is the one that masks the gradient by the activation.
        forks: Whether x is handed on beside the result, so that the gradient that comes back by it is added here.
        owns_passed: Whether nobody else holds that gradient, so that it may be overwritten.
        overwrites: Whether nobody reads ``other`` after this, so that the sum may be written there if there is no
            backward.
    """

    def __init__(
        self, convolution: nn.Conv2d, shape: Sequence[int], output: Sequence[int], bounds: Bounds | None
    ) -> None:
        super().__init__()
        self.convolution, self.bounds = convolution, bounds
        self.masks, self.forks, self.owns_passed, self.overwrites = bounds is not None, False, False, False
        self.stride, self.dilation = list(convolution.stride), list(convolution.dilation)
        self.padding, self.groups = list(map(int, convolution.padding)), convolution.groups
        kernel = convolution.kernel_size
        reach = [d * (k - 1) - p for d, k, p in zip(self.dilation, kernel, self.padding, strict=True)]
        self.reach = reach if self.stride == [1, 1] and min(reach) >= 0 else None
        even = self.stride[0] == self.stride[1] > 1 and self.dilation == [1, 1] and self.groups == 1
        self.phases = self.stride[0] if even and convolution.in_channels <= FEW_CHANNELS else None
        if bounds is None:
            self.activation: tuple[str, list[float]] = ("none", [])
        else:
            self.activation = ("relu", []) if bounds == RELU else ("hardtanh", list(bounds))
        self._shapes = list(shape), list(output)
        self.pack()
        self.register_load_state_dict_post_hook(_pack_anew)  # type: ignore[no-untyped-call]

    def pack(self) -> None:
        """Packs the weights as they are now; of another type, or elsewhere, they are used as they are."""
        weight = self.convolution.weight.detach()
        self.is_packed = weight.device.type == "cpu" and weight.dtype in _PACKED
        if not self.is_packed:
            return
        shape, output = self._shapes
        self.packed = _packed(weight, self.padding, self.stride, self.dilation, self.groups, shape)
        if self.reach is not None:
            by_group = weight.view(self.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
            mirrored = by_group.flip(2, 3).contiguous()
            self.mirrored = _packed(mirrored, self.reach, self.stride, self.dilation, self.groups, output)
        elif self.phases is not None:
            before = [-p % self.phases for p in self.padding]  # zeros, until the padding is a multiple of the stride
            after = [-(k + b) % self.phases for k, b in zip(weight.shape[2:], before, strict=True)]
            padded = nn.functional.pad(weight, (before[1], after[1], before[0], after[0]))
            mirrored = nn.functional.pixel_unshuffle(padded, self.phases).transpose(0, 1).flip(2, 3).contiguous()
            taps = mirrored.shape[2:]
            missing = [k - 1 - (p + b) // self.phases for k, p, b in zip(taps, self.padding, before, strict=True)]
            self.margin = [k - 1 for k in taps]  # enough on both sides; what is too much is cut off
            self.cut = [margin - first for margin, first in zip(self.margin, missing, strict=True)]
            self.mirrored = _packed(mirrored, self.margin, [1, 1], [1, 1], 1, output)

    def _apply(self, fn: Any, recurse: bool = True) -> "FusedConvolution":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.pack()  # in what may be another type
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All but the packed weights, which cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name not in ("packed", "mirrored")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Packs them anew."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.pack()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:
        """Shapes as of the convolution; with ``forks`` x comes back as well, to be read in its place."""
        dtype = self.convolution.weight.dtype
        if not self.is_packed:
            output = self.convolution(x) if other is None else self.convolution(x) + other
            output = output if self.bounds is None else output.clamp(*self.bounds)
            return (output, x) if self.forks else output
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        if other is not None:
            other = other.to(dtype).contiguous(memory_format=torch.channels_last)
        return _Convolve.apply(x, other, self)  # type: ignore[no-untyped-call]

    def gradient_of_input(self, gradient: Tensor, x: Tensor | None, size: Sequence[int], passed: Tensor | None) -> Any:
        """Gradient of x [B, C, *size] from that of the convolution, and from the one passed by its other reader."""
        if self.reach is not None:
            sizes = (self.reach, self.stride, self.dilation, self.groups)
            if passed is None:
                return _convolution()(gradient, self.mirrored, None, *sizes, "none", [], "")
            passed = passed.contiguous(memory_format=torch.channels_last)
            passed = passed if self.owns_passed else passed.clone()
            return _convolution_added_to()(passed, gradient, self.mirrored, None, *sizes, "add", 1.0, None, [], "")
        if self.phases is not None:
            whole = _convolution()(gradient, self.mirrored, None, self.margin, [1, 1], [1, 1], 1, "none", [], "")
            rows, columns = (-(-side // self.phases) for side in size)
            top, left = self.cut
            # what the last output does not reach has no gradient
            part = whole[:, :, top : top + rows, left : left + columns]
            if list(part.shape[2:]) != [rows, columns]:
                part = nn.functional.pad(part, (0, columns - part.shape[3], 0, rows - part.shape[2]))
            return _interleaved(part, self.phases)[:, :, : size[0], : size[1]]
        rest = (self.stride, self.padding, self.dilation, False, [0, 0], self.groups, [True, False, False])
        return torch.ops.aten.convolution_backward(gradient, x, self.convolution.weight, None, *rest)[0]


class _Convolve(Function):
    """What ``FusedConvolution`` computes, and the gradient of x and of ``other``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, layer: FusedConvolution) -> Any:
        bias, sizes = layer.convolution.bias, (layer.padding, layer.stride, layer.dilation, layer.groups)
        name, scalars = layer.activation
        if other is None:
            output = _convolution()(x, layer.packed, bias, *sizes, name, scalars, "")
        else:
            unary = None if name == "none" else name
            if layer.overwrites and not any(ctx.needs_input_grad):
                output = _convolution_added_to()(other, x, layer.packed, bias, *sizes, "add", 1.0, unary, scalars, "")
            else:  # copies it
                output = _convolution().binary(x, other, layer.packed, bias, *sizes, "add", 1.0, unary, scalars, "")
        ctx.set_materialize_grads(False)
        ctx.layer, ctx.sums, ctx.size = layer, other is not None, x.shape[2:]
        needs_x = layer.reach is None and layer.phases is None
        ctx.save_for_backward(output if layer.masks else None, x if needs_x else None)
        return (output, x) if layer.forks else output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, passed: Tensor | None = None) -> Any:
        if gradient is None:
            return passed, None, None
        layer: FusedConvolution = ctx.layer
        output, x = ctx.saved_tensors
        if layer.masks:
            gradient = masked(gradient, output, layer.bounds or RELU)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        below = layer.gradient_of_input(gradient, x, ctx.size, passed) if ctx.needs_input_grad[0] else None
        return below, gradient if ctx.sums else None, None


def masked(gradient: Tensor, output: Tensor, bounds: Bounds) -> Tensor:
    """The gradient where the activation was within its bounds, else zero."""
    found: Tensor
    if bounds == RELU:
        found = torch.ops.aten.threshold_backward(gradient, output, 0)
    else:
        found = torch.ops.aten.hardtanh_backward(gradient, output, *bounds)
    return found


def _interleaved(phases: Tensor, stride: int) -> Tensor:
    """``pixel_shuffle``, which is slow to write with few channels last: these come first."""
    batch, channels, rows, columns = phases.shape
    by_phase = phases.view(batch, channels // stride**2, stride, stride, rows, columns)
    return by_phase.permute(0, 1, 4, 2, 5, 3).reshape(batch, -1, rows * stride, columns * stride)


def _pack_anew(layer: FusedConvolution, _: object) -> None:
    layer.pack()


def _convolution() -> Any:
    return torch.ops.mkldnn._convolution_pointwise  # looked up here: a PyTorch without oneDNN has none


def _convolution_added_to() -> Any:
    """Writes its first argument."""
    return torch.ops.mkldnn._convolution_pointwise_.binary


def _packed(
    weight: Tensor, padding: list[int], stride: list[int], dilation: list[int], groups: int, shape: Sequence[int]
) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, list(shape))
    return found
