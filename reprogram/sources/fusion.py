"""A frozen network on the CPU, rewritten around fused convolutions.

Half of a step of a folded bfloat16 ResNet-18 is not arithmetic but reading and writing: ReLUs, sums, their gradients,
and weights that are packed anew at every call. Here weights are packed once, for both directions; a sum and an
activation are written with the convolution; the gradient of a shortcut is added by the convolution that reads the same
as it; and a ReLU before a max-pool masks the gradient after it, where it is smaller. What a network computes stays the
same up to rounding, which ``PreparedSource`` checks.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.fx.passes.shape_prop import ShapeProp

from reprogram.sources.fused_convolution import RELU, Bounds, FusedConvolution, masked

_SUMS = (operator.add, operator.iadd, torch.add)
_RELUS = (torch.relu, torch.relu_, nn.functional.relu, nn.functional.relu_)


def fuse(network: nn.Module, example: Tensor, num_classes: int) -> fx.GraphModule:
    """Rewrites a network in evaluation mode; it shares the weights of the original.

    Args:
        network: Without BatchNorms after its convolutions, where it is to gain.
        example: A batch [B, 3, H, W] as it will be given, in layout channels_last and in the type of the weights.
        num_classes: Of its logits: 1x1 convolutions of as many channels are left alone, as the last reads features.

    Raises:
        Exception: Whatever its forward raises when it is traced: a network that decides by its values cannot be.
    """
    graph_module = fx.symbolic_trace(network)
    for node in list(graph_module.graph.nodes):
        if isinstance(_module(node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.recompile()
    with torch.no_grad():
        ShapeProp(graph_module).propagate(example)  # type: ignore[no-untyped-call]
    for node in list(graph_module.graph.nodes):
        layer = _module(node)
        if type(layer) is nn.Conv2d and len(node.args) == 1 and _can_be_fused(layer, num_classes):
            _fuse_convolution(graph_module, node, layer)
    for rewrite in (_mask_after_pool, _pass_shortcut, _overwrite_summand):
        for node in list(graph_module.graph.nodes):
            fused = _module(node)
            if isinstance(fused, FusedConvolution):
                rewrite(graph_module, node, fused)
    graph_module.recompile()
    return graph_module.eval()


class MaskedGradient(nn.Module):
    """Hands on the maxima of ReLUs; their gradient is masked here, and not where there are more of them."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Returns its input."""
        masked: Tensor = _Mask.apply(pooled)  # type: ignore[no-untyped-call]
        return masked


class _Mask(Function):
    @staticmethod
    def forward(ctx: Any, pooled: Tensor) -> Tensor:
        ctx.save_for_backward(pooled)
        return pooled.view_as(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return masked(gradient, ctx.saved_tensors[0], RELU)


def _can_be_fused(convolution: nn.Conv2d, num_classes: int) -> bool:
    gives_logits = convolution.out_channels == num_classes and convolution.kernel_size == (1, 1)
    plain = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return plain and not gives_logits and convolution.in_channels > 1  # oneDNN packs some of a single one for nobody


def _fuse_convolution(graph_module: fx.GraphModule, node: fx.Node, convolution: nn.Conv2d) -> None:
    """Puts one convolution, a sum and an activation that alone read it, in the place of the last of them."""
    graph, chain, other, bounds = graph_module.graph, [node], None, None
    reader = _only_reader(node)
    if reader is not None and reader.op == "call_function" and reader.target in _SUMS and not reader.kwargs:
        first, second = reader.args
        rest = second if first is node else first
        in_place = reader.target is operator.iadd and first is not node  # would change what others may read
        if isinstance(rest, fx.Node) and rest is not node and _shape(rest) == _shape(node) and not in_place:
            other = rest
            chain.append(reader)
            reader = _only_reader(reader)
    if reader is not None and (bounds := _activation(reader)) is not None:
        if other is None or bounds == RELU:  # oneDNN knows no other after a sum
            chain.append(reader)
        else:
            bounds = None
    x = node.args[0]
    assert isinstance(x, fx.Node)
    name = f"fused_{node.name}"
    graph_module.add_module(name, FusedConvolution(convolution, _shape(x), _shape(node), bounds))
    with graph.inserting_before(chain[-1]):
        fused = graph.call_module(name, (x,) if other is None else (x, other))
    fused.meta = dict(chain[-1].meta)
    chain[-1].replace_all_uses_with(fused)
    for spent in reversed(chain):
        graph.erase_node(spent)


def _mask_after_pool(graph_module: fx.GraphModule, node: fx.Node, layer: FusedConvolution) -> None:
    """Moves a ReLU's mask behind the max-pool that alone reads it: the largest of ReLUs is one itself."""
    pool = _only_reader(node)
    module = None if pool is None else _module(pool)
    if layer.bounds != RELU or pool is None or not isinstance(module, nn.MaxPool2d) or module.return_indices:
        return
    layer.masks = False
    name = f"masked_{pool.name}"
    graph_module.add_module(name, MaskedGradient())
    readers = list(pool.users)
    with graph_module.graph.inserting_after(pool):
        masked = graph_module.graph.call_module(name, (pool,))
    for reader in readers:
        reader.replace_input_with(pool, masked)


def _pass_shortcut(graph_module: fx.GraphModule, node: fx.Node, layer: FusedConvolution) -> None:
    """Has a convolution of stride 1 hand its input on to the one later convolution that reads it too."""
    x, readers = node.args[0], list(node.users)
    assert isinstance(x, fx.Node)
    others = [reader for reader in x.users if reader is not node]
    if layer.reach is None or len(others) != 1 or x in node.args[1:]:
        return
    (later,) = others
    reads_later = _module(later)
    if later < node or not isinstance(reads_later, FusedConvolution) or later.args.count(x) != 1:
        return
    layer.forks = True
    layer.owns_passed = later.args[0] is x or reads_later.masks  # else it hands on the gradient that it got itself
    with graph_module.graph.inserting_after(node):
        output = graph_module.graph.call_function(operator.getitem, (node, 0))
        shortcut = graph_module.graph.call_function(operator.getitem, (node, 1))
    for reader in readers:
        reader.replace_input_with(node, output)
    later.replace_input_with(x, shortcut)


def _overwrite_summand(graph_module: fx.GraphModule, node: fx.Node, layer: FusedConvolution) -> None:
    """Lets a convolution write its sum where the other summand is, if it alone still reads that."""
    del graph_module
    if len(node.args) < 2:
        return
    other = origin = node.args[1]
    assert isinstance(other, fx.Node)
    if other.target is operator.getitem and other.args[1] == 1:  # a shortcut that was passed on
        fork = other.args[0]
        assert isinstance(fork, fx.Node)
        origin = fork.args[0]
    assert isinstance(origin, fx.Node)
    fresh = isinstance(_module(origin), FusedConvolution | MaskedGradient) and node.args[0] not in (other, origin)
    layer.overwrites = fresh and len(origin.users) == 1 and len(other.users) == 1


def _module(node: fx.Node) -> nn.Module | None:
    """What a node calls, if it is a module."""
    owner = node.graph.owning_module
    return owner.get_submodule(str(node.target)) if node.op == "call_module" and owner is not None else None


def _activation(node: fx.Node) -> Bounds | None:
    """Bounds of an activation that a convolution can be fused with, and whose gradient its result tells."""
    module = _module(node)
    if isinstance(module, nn.Hardtanh):  # ReLU6 too
        return (float(module.min_val), float(module.max_val))
    function = node.op == "call_function" and node.target in _RELUS
    method = node.op == "call_method" and node.target in ("relu", "relu_")
    return RELU if isinstance(module, nn.ReLU) or function or method else None


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: fx.Node) -> Sequence[int]:
    shape: Sequence[int] = getattr(node.meta.get("tensor_meta"), "shape", ())
    return shape
