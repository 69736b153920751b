"""Labels for one example of each cluster of the pool, which may speak for the rest of it."""

import numpy as np
from numpy.typing import NDArray

from reprogram.active.strategies import UNKNOWN, Pool, Propagated, Strategy
from reprogram.data.base import Rows
from reprogram.errors import ConfigError

SEES = ("log_probs", "features")


class ClusterRepresentatives(Strategy):
    """Cuts the pool into as many clusters as there will be labels, and chooses the centre of each that has none.

    k-means runs on what the source says of the examples before anything is trained, on its first principal components.
    Large clusters come first; where fewer clusters than labels are open, each gives a further example in turn.

    With ``trust`` a cluster's labels are passed on to the rest of it: the likeliest of them, trusted by that number
    times the share of the cluster's labels that agree. These labels are a guess: they are marked, weigh less, are made
    anew in every round, and never count as labelled.

    Args:
        sees: ``log_probs`` of the source, or its penultimate ``features`` (in a white box).
        components: Most principal components, >= 1.
        trust: Of a label passed on, in (0, 1]; ``None``: none is.

    Raises:
        ConfigError: If a value is out of range.

    Reference:
        Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets, Hacohen, Dekel, Weinshall, ICML
        2022, arXiv:2202.02794 (as many clusters as labels, those without a label first). Differences: the example
        nearest to the centre instead of the densest one; no self-supervised features.
    """

    def __init__(self, sees: str = "log_probs", components: int = 50, trust: float | None = None) -> None:
        if sees not in SEES:
            raise ConfigError(f"active.strategy.sees: expected one of {', '.join(SEES)}, got '{sees}'")
        if components < 1:
            raise ConfigError(f"active.strategy.components: expected a whole number >= 1, got {components}")
        if trust is not None and not 0 < trust <= 1:
            raise ConfigError(f"active.strategy.trust: expected a number in (0, 1] or null, got {trust}")
        self.features, self.components, self.trust = sees, components, trust
        self.passes_on = trust is not None
        self.name = "clusters" if trust is None else "propagation"

    def choose(self, pool: Pool, count: int, seed: int) -> Rows:
        """See ``Strategy``."""
        labelled = int((pool.labels != UNKNOWN).sum())
        cluster, distance = self._clusters(pool, labelled + count, seed)
        size = np.bincount(cluster)
        taken = np.bincount(cluster[pool.labels != UNKNOWN], minlength=len(size))
        rows = pool.open
        turns = taken[cluster[rows]] + _rank_within(cluster[rows], distance[rows])
        order = np.lexsort((distance[rows], -size[cluster[rows]], turns))
        chosen: Rows = rows[order[:count]]
        return chosen

    def propagate(self, pool: Pool, seed: int) -> Propagated | None:
        """See ``Strategy``."""
        given = np.flatnonzero(pool.labels != UNKNOWN)
        if self.trust is None or not len(given):
            return None
        cluster, _ = self._clusters(pool, len(given), seed)
        votes = np.zeros((cluster.max() + 1, pool.labels.max() + 1))
        np.add.at(votes, (cluster[given], pool.labels[given]), 1.0)
        total = votes.sum(axis=1)
        rows = pool.open[total[cluster[pool.open]] > 0]
        mine = votes[cluster[rows]]
        return Propagated(rows, mine.argmax(axis=1), self.trust * mine.max(axis=1) / total[cluster[rows]])

    def _clusters(self, pool: Pool, count: int, seed: int) -> tuple[Rows, NDArray[np.float64]]:
        """Cluster of each example of the pool, and its distance to that cluster's centre, both [N]."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits

        assert pool.features is not None
        with threadpool_limits(1), np.errstate(invalid="ignore"):  # shares of a variance of 0, where all are equal
            components = min(self.components, *pool.features.shape)
            points = PCA(components, svd_solver="full").fit_transform(pool.features)
            different = len(np.unique(points, axis=0))  # k-means warns of more clusters than points
            found = KMeans(min(count, different), n_init=1, random_state=seed).fit(points)
        cluster = found.labels_.astype(np.int64)
        return cluster, np.linalg.norm(points - found.cluster_centers_[cluster], axis=1)


def _rank_within(cluster: Rows, distance: NDArray[np.float64]) -> Rows:
    """0 for the example of each cluster that is nearest to its centre, 1 for the next, and so on."""
    order = np.lexsort((distance, cluster))
    starts = np.searchsorted(cluster[order], cluster[order])
    rank = np.empty(len(cluster), dtype=np.int64)
    rank[order] = np.arange(len(cluster)) - starts
    return rank
