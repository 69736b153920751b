"""The interface of every source model."""

import sys
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from torch import Tensor, nn

from reprogram.types import SourceSpec


class SourceModel(nn.Module, ABC):
    """A frozen classifier: images in [0, 1] go in, log-probabilities of its own classes come out.

    A source is in evaluation mode for life and owns its normalisation, so everything above it works on valid images.
    """

    spec: SourceSpec

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Scores images.

        Shapes:
            images: [B, 3, H, W] floating, in [0, 1], H and W as in ``spec.image_size``.
            -> [B, K_s] log-probabilities: float32, or float64 for float64 images.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the answers this source gives: a program is only valid on the source it was trained on."""

    def asked_for(self, purpose: str) -> AbstractContextManager[None]:
        """Says what the images sent within the block are for; only a source that counts its queries minds."""
        del purpose
        return nullcontext()

    def at_once(self, graph: bool = False) -> int:
        """Most images of one forward that fit into memory and gain by being together.

        Args:
            graph: Whether what their backward needs is to be kept as well.
        """
        return sys.maxsize if graph else 64

    def queries(self) -> dict[str, int] | None:
        """Queries of this run by purpose; ``None`` from a source that does not count them."""
        return None

    @property
    def uncertain(self) -> int:
        """Counted queries that may not have been charged: a crash or an outage leaves that open."""
        return 0

    @property
    def retried(self) -> int:
        """Counted queries that brought no usable answer, so that the images were sent again."""
        return 0

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: BatchNorm statistics of a source never move."""
        del mode
        return super().train(False)
