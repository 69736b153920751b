"""Weights that lie in a local file."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reprogram.errors import SourceError


def load_local_weights(network: nn.Module, weights: str | Path, name: str) -> None:
    """Loads a state dict (safetensors, or a PyTorch file read with ``weights_only``) strictly into a network.

    Raises:
        SourceError: If the file is missing, unreadable, or does not fit the network; the message lists the keys.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SourceError(
            f"{name}: expected a weights file at {path}, found none; set source.weights to a local state dict "
            "(.safetensors or .pth)"
        )
    try:
        state = _read(path)
    except Exception as error:  # every reader has its own exception types for a damaged file
        raise SourceError(f"{name}: cannot read weights {path}: {error}; is the file complete?") from error
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        reason = str(error)
        reason = reason if len(reason) < 1500 else reason[:1500] + " ..."
        raise SourceError(f"{name}: the weights in {path} do not fit the network: {reason}") from error


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise TypeError(f"expected a state dict, got {type(state).__name__}")
    return state
