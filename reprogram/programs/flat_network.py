"""A small network whose weights are a flat vector: one for a whole batch, or another for every image."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

CHUNK = 16
"""Most networks of one forward: on a CPU larger groups are slower, and memory does not grow with the batch."""


class FlatNetwork:
    """Runs a network with weights from outside: it has none of its own, so there is nothing to save or to move.

    Device and precision are those of the weights given.

    Args:
        network: Made of linear layers, convolutions, group norms and what has no weights, without buffers (a batch norm
            has some). Every tensor it takes, and the one it gives, has a row for each image. It is changed: only the
            names and shapes of its weights remain, in the order of ``named_parameters``.
    """

    def __init__(self, network: nn.Module) -> None:
        assert not list(network.buffers()), "a network with a state depends on the images that it saw before"
        self._network = network.to("meta")
        self._shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]

    def start(self, generator: torch.Generator) -> Tensor:
        """Draws weights as PyTorch does by default: -> [D] float32.

        A weight and its bias are uniform in +-1 / sqrt(fan-in); a norm multiplies by 1 and adds 0.
        """
        parts = []
        for layer in self._network.modules():
            weights = list(layer.parameters(recurse=False))
            if isinstance(layer, nn.GroupNorm):
                parts += [torch.ones(weights[0].shape), torch.zeros(weights[1].shape)]
            else:
                bound = weights[0][0].numel() ** -0.5 if weights else 0.0
                parts += [bound * (2 * torch.rand(weight.shape, generator=generator) - 1) for weight in weights]
        return torch.cat([part.flatten() for part in parts])

    def __call__(self, flat: Tensor, *inputs: Tensor) -> Tensor:
        """Runs the network.

        Shapes:
            flat: [D], or [B, D] with one network per image.
            inputs: [B, ...], turned to the precision of ``flat``.
            -> [B, ...]
        """
        inputs = tuple(one.to(flat.dtype) for one in inputs)
        if flat.ndim == 1:
            return self._run(flat, inputs)
        outputs: Tensor = vmap(self._run_on_one, chunk_size=CHUNK)(flat, inputs)
        return outputs

    def _run_on_one(self, flat: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
        return self._run(flat, tuple(row[None] for row in rows))[0]

    def _run(self, flat: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        parts = zip(self._shapes.items(), torch.split(flat, self._sizes), strict=True)
        weights = {name: part.reshape(shape) for (name, shape), part in parts}
        outputs: Tensor = functional_call(self._network, weights, inputs)
        return outputs
