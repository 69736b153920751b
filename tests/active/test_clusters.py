"""Representatives of clusters, and labels passed on within them."""

import numpy as np
import pytest

from reprogram.active.clusters import ClusterRepresentatives
from reprogram.active.strategies import UNKNOWN, Pool
from reprogram.errors import ConfigError

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
SIZES = (30, 20, 10)


def blobs(labels=None, closed=()) -> tuple[Pool, np.ndarray]:
    """Three well-separated clusters, whose first members lie at their centres."""
    generator = np.random.default_rng(0)
    cluster = np.repeat(np.arange(3), SIZES)
    points = CENTRES[cluster] + generator.uniform(-1, 1, (60, 2))
    for index in range(3):  # the mean of each is exactly its centre, and its first member is there
        rows = np.flatnonzero(cluster == index)
        points[rows[0]] = CENTRES[index]
        points[rows[1:]] += CENTRES[index] - points[rows[1:]].mean(axis=0)
    shut = np.zeros(60, dtype=bool)
    shut[list(closed)] = True
    known = np.full(60, UNKNOWN)
    for row, label in (labels or {}).items():
        known[row] = label
    return Pool(known, shut, features=points), cluster


def test_each_cluster_is_represented_by_its_centre_large_ones_first() -> None:
    pool, _ = blobs()
    assert ClusterRepresentatives().choose(pool, 3, seed=0).tolist() == [0, 30, 50]


def test_clusters_that_have_a_label_come_last() -> None:
    pool, cluster = blobs(labels={5: 1})
    assert ClusterRepresentatives().choose(pool, 2, seed=0).tolist() == [30, 50]
    more = ClusterRepresentatives().choose(pool, 40, seed=0)
    assert len(set(more.tolist())) == 40
    assert 5 not in more
    assert set(cluster[more]) == {0, 1, 2}


def test_what_cannot_be_labelled_does_not_represent_its_cluster() -> None:
    pool, cluster = blobs(closed=[0])
    first = ClusterRepresentatives().choose(pool, 3, seed=0)
    assert 0 not in first
    assert sorted(cluster[first]) == [0, 1, 2]


def test_labels_are_passed_on_within_clusters_and_nowhere_else() -> None:
    pool, cluster = blobs(labels={0: 2, 30: 0, 50: 1}, closed=[7])
    found = ClusterRepresentatives(trust=0.4).propagate(pool, seed=0)
    assert found is not None
    assert sorted(found.rows.tolist()) == [row for row in range(60) if row not in (0, 30, 50, 7)]
    assert np.array_equal(found.labels, np.array([2, 0, 1])[cluster[found.rows]])
    assert np.allclose(found.trust, 0.4)


def test_a_cluster_whose_labels_disagree_is_trusted_less() -> None:
    """Of one point's four labels three agree: 3/4 of the trust, and never more than what was asked for."""
    points = np.zeros((10, 2))
    labels = np.full(10, UNKNOWN)
    labels[:4] = [1, 1, 0, 1]
    found = ClusterRepresentatives(trust=0.8).propagate(Pool(labels, np.zeros(10, dtype=bool), features=points), 0)
    assert found is not None
    assert found.labels.tolist() == [1] * 6
    assert np.allclose(found.trust, 0.6)


def test_nothing_is_passed_on_unless_asked_for() -> None:
    pool, _ = blobs(labels={0: 2})
    assert ClusterRepresentatives().propagate(pool, seed=0) is None
    assert ClusterRepresentatives(trust=0.5).propagate(blobs()[0], seed=0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sees": "pixels"}, "active.strategy.sees: expected one of log_probs, features, got 'pixels'"),
        ({"components": 0}, "active.strategy.components: expected a whole number >= 1, got 0"),
        ({"trust": 1.5}, r"active.strategy.trust: expected a number in \(0, 1\] or null, got 1.5"),
    ],
)
def test_wrong_values_are_refused(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ClusterRepresentatives(**arguments)
