"""What is chosen about the rounds, and how many labels each of them ends with."""

import math
from dataclasses import dataclass

from reprogram.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """The keys of ``active``, but for the strategy.

    Args:
        fractions: Labelled part of the pool in each round, rising, in (0, 1].
        max_labels: At most so many labels; ``None``: no bound.
        confidence: End when the mean of the highest class probability over what is not labelled reaches this, in
            (0, 1); ``None``: never.
        labels: Who gives them: ``data`` (they are there, and shown only when chosen) or ``person``.
        partial: Whether a sheet that is filled in part will do; what is left returns to the pool.
        train: When the program is trained: in ``each`` round, or after the ``last``, all rounds before fitting the
            mapping alone to answers that are asked for once; ``None``: ``each`` in a white box, ``last`` behind a
            black one.
        warm_start: Whether a round begins with program and mapping of the one before, or afresh.
        price_per_label: In your currency; ``None``: not counted.

    Raises:
        ConfigError: If a value is out of range.
    """

    fractions: list[float]
    max_labels: int | None = None
    confidence: float | None = None
    labels: str = "data"
    partial: bool = False
    train: str | None = None
    warm_start: bool = False
    price_per_label: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no rounds can be made from."""
        rising = all(low < high for low, high in zip([0.0, *self.fractions], self.fractions, strict=False))
        if not self.fractions or not rising or self.fractions[-1] > 1:
            raise ConfigError(f"active.fractions: expected rising numbers in (0, 1], got {self.fractions}")
        if self.max_labels is not None and self.max_labels < 1:
            raise ConfigError(f"active.max_labels: expected a whole number >= 1 or null, got {self.max_labels}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ConfigError(f"active.confidence: expected a number in (0, 1) or null, got {self.confidence}")
        if self.price_per_label is not None and not 0 < self.price_per_label < math.inf:
            raise ConfigError(f"active.price_per_label: expected a number > 0 or null, got {self.price_per_label}")
        for key, value, known in (("labels", self.labels, ("data", "person")), ("train", self.train, (None, *WHEN))):
            if value not in known:
                names = ", ".join("null" if name is None else name for name in known)
                raise ConfigError(f"active.{key}: expected one of {names}, got {value!r}")

    def targets(self, pool: int, known: int) -> list[int]:
        """Labels at the end of each round, of a pool of which so many are labelled before.

        Raises:
            ConfigError: If there is nothing to label.
        """
        most = pool if self.max_labels is None else min(pool, self.max_labels)
        wanted = [min(most, math.ceil(fraction * pool - 1e-9)) for fraction in self.fractions]
        rounds = [count for count in dict.fromkeys(wanted) if count > known]
        if not rounds:
            raise ConfigError(
                f"active: {known} of {pool} examples are labelled, expected fewer than active.fractions and "
                f"active.max_labels ask for ({max(wanted)}); raise them, or train with reprogram-train"
            )
        return [known, *rounds] if known else rounds


WHEN = ("each", "last")
