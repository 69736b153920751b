"""Distributed adversarial reprogramming: teach a frozen classifier another task by its input alone."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprogram.artefact import load

__version__ = version("reprogram")
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Imports ``load`` when it is first used: the commands start without PyTorch."""
    if name == "load":
        from reprogram.artefact import load

        return load
    raise AttributeError(f"module 'reprogram' has no attribute '{name}'")
