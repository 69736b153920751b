import numpy as np
import pytest
from fabricated import make_run, predictions, rows

from reprogram.errors import DataError
from reprogram.evaluation.predictions import Predictions
from reprogram.reports.collect import collect
from reprogram.reports.pooling import aligned, pool


def test_folds_are_pooled_and_seeds_stay_apart_in_one_order(tmp_path):
    folds = {"0": rows(0, 20), "1": rows(20, 50)}
    for seed in (0, 1):
        for name, ids in folds.items():
            make_run(tmp_path / (f"{seed}{name}" if seed else f"{9 - int(name)}"), ids, seed)  # in another order
    pooled = pool(collect(f"{tmp_path}/*")[0])
    assert pooled.seeds == [0, 1]
    first, second = pooled.classifiers["reprogrammed"]
    assert first.ids == second.ids == (*rows(20, 50), *rows(0, 20))
    own = predictions(folds["0"], skill=2.0, seed=1)
    np.testing.assert_array_equal(second.scores[30:], own.scores)
    assert first.groups[-1] == "patient9"
    assert first.attributes["sex"][:2] == ("f", "m")


def test_an_example_tested_twice_is_refused(tmp_path):
    make_run(tmp_path / "a", rows(0, 20))
    make_run(tmp_path / "b", rows(17, 30))
    with pytest.raises(DataError, match=r"3 examples are tested by both .*/a and .*/b: row17, row18, row19; leave one"):
        pool(collect(f"{tmp_path}/*")[0])


def test_a_seed_without_all_folds_is_left_out(tmp_path):
    make_run(tmp_path / "a", rows(0, 20))
    make_run(tmp_path / "b", rows(20, 40))
    make_run(tmp_path / "c", rows(0, 20), seed=1)
    pooled = pool(collect(f"{tmp_path}/*")[0])
    assert (pooled.seeds, pooled.left_out) == ([0], [1])
    assert len(pooled.first.ids) == 40


def test_a_baseline_needs_every_fold_but_not_every_seed(tmp_path):
    both = {"reprogrammed": 2.0, "majority": 0.0}
    for seed in (0, 1):
        for name, ids in (("a", rows(0, 20)), ("b", rows(20, 40))):
            some = {**both, "raw_linear": 1.0} if seed == 0 else both
            some = {**some, "linear_probe": 1.0} if name == "a" else some
            make_run(tmp_path / f"{seed}{name}", ids, seed, some)
    found = pool(collect(f"{tmp_path}/*")[0]).classifiers
    assert {name: len(seeds) for name, seeds in found.items()} == {"reprogrammed": 2, "majority": 2, "raw_linear": 1}


def test_rows_are_brought_into_order_or_refused():
    one = predictions(rows(0, 10))
    back = aligned(one.subset(range(9, -1, -1)), one)
    assert back.ids == one.ids
    np.testing.assert_array_equal(back.scores, one.scores)
    with pytest.raises(
        DataError, match="got 12 and 10, of which 6 are in one of the two only: row0, row1, row10, row11, row12, "
    ):
        aligned(predictions(rows(2, 14)), one)
    turned = Predictions("test", one.ids, 1 - one.targets, one.scores, one.groups)
    with pytest.raises(DataError, match=r"targets of 10 test rows \(row0, row1, row2, row3, row4, ...\) differ"):
        aligned(turned, one)
    with pytest.raises(DataError, match="groups of the test rows differ"):
        aligned(predictions(rows(0, 10), groups=False), one)
