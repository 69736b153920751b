"""BatchNorms of a frozen network, folded into the convolutions before them where nothing else reads those."""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reprogram.sources.network import NetworkSource

log = logging.getLogger(__name__)

FOLDING_TOLERANCE = 1e-4  # largest float32 difference that folding may cause, of the spread of log-probabilities


def fold_batch_norms(source: NetworkSource, probe: Tensor, before: Tensor) -> int:
    """Folds what can be folded and takes all of it back if the answers change; returns how many."""
    original = copy.deepcopy(source.network)
    pairs = _foldable_pairs(source, probe[:1])
    parents = {child: (parent, name) for parent in source.network.modules() for name, child in parent.named_children()}
    for conv, norm in pairs:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's BatchNormAct2d does dropout and activation as well: these stay
        rest = [getattr(norm, part) for part in ("drop", "act") if isinstance(getattr(norm, part, None), nn.Module)]
        parent, name = parents[norm]
        setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
    source.network.requires_grad_(False)
    source.train(False)
    with torch.inference_mode():
        difference = (source(probe) - before).abs().max().item()
    if pairs and not difference <= FOLDING_TOLERANCE * max(10.0, float(before.std())):
        log.warning("%s: folding BatchNorm changed the answers by %.1e; not folded", source.spec.name, difference)
        source.network = original
        return 0
    return len(pairs)


def _foldable_pairs(source: NetworkSource, probe: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Watches one forward for convolutions whose output is read by one BatchNorm and by nothing else."""
    produced: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept alive, so that its id stays its own
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, int]] = []

    def after_conv(module: nn.Module, args: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            produced[id(output)] = (module, output)

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.BatchNorm2d) and id(args[0]) in produced and module.running_var is not None:
            pairs.append((produced[id(args[0])][0], module, id(args[0])))

    hooks = [m.register_forward_hook(after_conv) for m in source.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in source.modules() if isinstance(m, nn.BatchNorm2d)]
    readers = _Readers()
    try:
        with torch.no_grad(), readers:
            source(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (conv, norm) for conv, norm, tensor in pairs if calls[conv] == calls[norm] == 1 and readers.counts[tensor] == 1
    ]


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that read each tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[int, int] = {}
        self._alive: list[Tensor] = []  # a freed tensor's id would be given to another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor):
                self.counts[id(leaf)] = self.counts.get(id(leaf), 0) + 1
                self._alive.append(leaf)
        return func(*args, **(kwargs or {}))
