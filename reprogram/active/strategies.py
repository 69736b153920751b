"""Which examples of the pool are labelled next."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprogram.data.base import Rows
from reprogram.errors import ConfigError

UNKNOWN = -1

MEASURES = {"least_confidence": "least_confident", "margin": "margin_sampling", "entropy": "entropy"}
"""Names of uncertainty here and in scikit-activeml."""


@dataclass(frozen=True, eq=False)
class Pool:
    """What is known of the pool when examples are to be chosen, N in all.

    Shapes:
        labels: [N] class of each labelled example, else -1.
        closed: [N] whether a person said that the example cannot be labelled.
        probabilities: [N, K_t] class probabilities by the model of the round before; ``None`` before the first.
        features: [N, F] what ``Strategy.features`` asks for; ``None`` where it asks for nothing.
    """

    labels: NDArray[np.int64]
    closed: NDArray[np.bool_]
    probabilities: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None

    @property
    def open(self) -> Rows:
        """Rows that can be chosen."""
        return np.flatnonzero((self.labels == UNKNOWN) & ~self.closed)


@dataclass(frozen=True, eq=False)
class Propagated:
    """Labels that nobody gave: [M] rows of the pool, their classes, and how far each is trusted, in (0, 1]."""

    rows: Rows
    labels: NDArray[np.int64]
    trust: NDArray[np.float64]


class Strategy(ABC):
    """Chooses what is worth a label."""

    name: str
    """In tables and pictures."""

    features: str | None = None
    """What of the pool it must see: ``log_probs`` of the source, or its penultimate ``features``; ``None``: neither."""

    passes_on: bool = False
    """Whether examples that nobody labelled are trained on too."""

    @abstractmethod
    def choose(self, pool: Pool, count: int, seed: int) -> Rows:
        """Rows of ``count`` open examples, most wanted first; the same arguments give the same rows."""

    def propagate(self, pool: Pool, seed: int) -> Propagated | None:
        """Labels for examples that have none, once those chosen with this seed are labelled."""
        del pool, seed
        return None


class RandomChoice(Strategy):
    """Draws evenly: what every other strategy has to beat."""

    name = "random"

    def choose(self, pool: Pool, count: int, seed: int) -> Rows:
        """See ``Strategy``."""
        return np.random.default_rng(seed).permutation(pool.open)[:count]


class Uncertainty(Strategy):
    """Chooses the examples that the model is least sure of; at random before there is a model.

    With probabilities p in falling order, the largest of

    ``least_confidence``: 1 - p_1        ``margin``: 1 - (p_1 - p_2)        ``entropy``: -sum_k p_k log p_k

    For two classes all three choose the same.

    Args:
        measure: ``least_confidence``, ``margin`` or ``entropy``.

    Raises:
        ConfigError: If the measure has no such name.

    Reference:
        Active Learning Literature Survey, Settles, 2009, section 3.1; computed by scikit-activeml.
    """

    def __init__(self, measure: str = "margin") -> None:
        if measure not in MEASURES:
            raise ConfigError(f"active.strategy.measure: expected one of {', '.join(MEASURES)}, got '{measure}'")
        try:
            import skactiveml  # noqa: F401 - named in the message
        except ImportError as error:
            raise ConfigError(
                f"active={measure}: needs the package scikit-activeml; pip install 'reprogram[active]'"
            ) from error
        self.measure, self.name = measure, measure.replace("_", " ")

    def choose(self, pool: Pool, count: int, seed: int) -> Rows:
        """See ``Strategy``; equal ones in random order."""
        from skactiveml.pool import uncertainty_scores

        rows = np.random.default_rng(seed).permutation(pool.open)
        if pool.probabilities is None or not len(rows):  # scikit-activeml scores no empty pool
            return rows[:count]
        worth = uncertainty_scores(pool.probabilities[rows], method=MEASURES[self.measure])
        chosen: Rows = rows[np.argsort(-worth, kind="stable")[:count]]
        return chosen
