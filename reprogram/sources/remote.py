"""A source elsewhere: it is asked request by request, and what it said is kept as it said it."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from reprogram.sources.base import SourceModel


class Account(Protocol):
    """Hears of every request, from one thread at a time; see ``BlackBox`` for the one that keeps a ledger."""

    def sent(self, images: int) -> None:
        """Before so many images leave.

        Raises:
            QueryBudgetExceeded: If they may not.
        """

    def answered(self, rows: Sequence[int], answers: Sequence[bytes]) -> None:
        """After these images got their answers, before anything else is done with them."""

    def failed(self, images: int, charged: bool | None) -> None:
        """After so many images got no usable answer; ``charged``: whether they are paid for, ``None``: unknown."""


class RemoteSource(SourceModel):
    """A source that a request may reach or not.

    Attributes:
        encoding: How images are sent; see ``sources.encoding``. They are to be rounded to 8 bits before, if it is a
            file's: only then the file says all about them.
        jpeg_quality: 1 to 100, of a JPEG file.
        has_open_classes: Whether its class list is not known yet: ``labels`` grows with each answer that is read.
        drift_check: How many images with stored answers are asked again, to see whether it still gives them.
    """

    encoding: str
    jpeg_quality: int
    has_open_classes: bool
    drift_check: int

    @abstractmethod
    def ask(self, images: Tensor, account: Account) -> list[bytes]:
        """Sends images [B, 3, H, W] in [0, 1], several requests at a time; blocks until all are answered.

        Returns:
            What the source said about each, to be kept and read at any time.

        Raises:
            OracleError: If it gave no usable answer in all attempts, or is not to be asked at all.
            QueryBudgetExceeded: Of the account. Requests under way are waited for in both cases.
        """

    @property
    @abstractmethod
    def labels(self) -> set[str]:
        """In the answers read so far."""

    @abstractmethod
    def read(self, answers: Sequence[bytes]) -> Tensor:
        """Answers as log-probabilities [B, K_s] float32."""

    def forward(self, images: Tensor) -> Tensor:
        """Scores images on nobody's account."""
        return self.read(self.ask(images, _Nobody())).to(images.device)


class _Nobody:
    def sent(self, images: int) -> None: ...

    def answered(self, rows: Sequence[int], answers: Sequence[bytes]) -> None: ...

    def failed(self, images: int, charged: bool | None) -> None: ...
