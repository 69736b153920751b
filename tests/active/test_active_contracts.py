"""Every strategy that can be chosen: composed from its config, it chooses what is open, the same for the same seed."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from reprogram.active.options import Options
from reprogram.active.strategies import UNKNOWN, Pool, Strategy
from reprogram.build import plain
from reprogram.commands.launch import config_folder
from reprogram.instantiation import call, without

pytest.importorskip("skactiveml")

CHOICES = sorted(path.stem for path in (config_folder() / "active").glob("*.yaml") if not path.stem.startswith("_"))


def test_there_are_strategies() -> None:
    assert {"random", "margin", "clusters", "propagation"} <= set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_strategy_keeps_its_contract(choice: str) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        block = plain(compose("active", [f"active={choice}"]))["active"]
    call({"_target_": f"{Options.__module__}.Options", **without(block, ("strategy",))}, "active")
    strategy: Strategy = call(block["strategy"], "active.strategy")
    generator = np.random.default_rng(0)
    labels = np.full(40, UNKNOWN)
    labels[:10] = np.arange(10) % 3
    closed = np.zeros(40, dtype=bool)
    closed[10:15] = True
    features = generator.normal(size=(40, 6)) if strategy.features else None
    pool = Pool(labels, closed, generator.dirichlet(np.ones(3), size=40), features)
    rows = strategy.choose(pool, 8, seed=1)
    assert len(set(rows.tolist())) == 8
    assert rows.min() >= 15  # neither labelled nor closed
    assert np.array_equal(rows, strategy.choose(pool, 8, seed=1))
    assert len(strategy.choose(pool, 100, seed=1)) == 25  # all that is open
    assert len(strategy.choose(pool, 0, seed=1)) == 0
    passed_on = strategy.propagate(pool, seed=1)
    if passed_on is not None:
        assert set(passed_on.rows.tolist()) <= set(range(15, 40))
        assert ((passed_on.trust > 0) & (passed_on.trust <= 1)).all()
        assert set(passed_on.labels.tolist()) <= {0, 1, 2}
