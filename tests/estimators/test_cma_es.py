"""CMA-ES: the search is the library's, its mean is theta, its state is plain."""

import builtins
from typing import Any

import cmaes
import numpy as np
import pytest
import torch
from torch import Tensor
from toys import D, Toy, quadratic, train

from reprogram.errors import ConfigError
from reprogram.estimators.base import StepKey
from reprogram.estimators.cma_es import CMAES


@pytest.mark.parametrize(("covariance", "kind"), [("diagonal", cmaes.SepCMA), ("full", cmaes.CMA)])
def test_theta_is_the_mean_of_the_library_s_search(covariance: str, kind: Any) -> None:
    losses, _ = quadratic()
    toy, rows = Toy(losses), torch.arange(4)
    search = kind(mean=toy.theta.detach().numpy().copy(), sigma=0.4, population_size=6)
    estimator = CMAES(D, population=6, sigma=0.4, covariance=covariance)
    for batch in range(5):
        train(estimator, toy, range(batch, batch + 1))
        search.reseed_rng(int(np.random.SeedSequence(StepKey(0, 0, batch)).generate_state(1)[0]))
        asked = [search.ask() for _ in range(6)]
        told = [(x, (toy.weights @ losses(torch.from_numpy(x).expand(4, -1), rows)).item()) for x in asked]
        search.tell(told)
        torch.testing.assert_close(toy.theta.detach(), torch.from_numpy(search.mean))


def test_theta_is_left_alone_by_a_step() -> None:
    losses, _ = quadratic()
    toy = Toy(losses)
    before = toy.theta.detach().clone()
    CMAES(D).step(toy, StepKey(0, 0, 0))
    assert torch.equal(toy.theta.detach(), before)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_state_is_tensors_and_plain_numbers_of_its_own(covariance: str) -> None:
    losses, _ = quadratic()
    toy, estimator = Toy(losses), CMAES(D, covariance=covariance)
    assert estimator.get_extra_state() == {}
    train(estimator, toy, range(2))
    state = estimator.get_extra_state()
    assert all(type(value) in (Tensor, float, int, bool, type(None)) for value in state.values())
    kept = state["_mean"].clone()
    train(estimator, toy, range(2, 4))
    assert torch.equal(state["_mean"], kept)


def test_the_population_grows_with_the_dimension() -> None:
    assert [CMAES(size).queries_per_example for size in (2, 768)] == [6, 23]
    assert CMAES(768, population=10).queries_per_example == 10
    assert CMAES(2).owns_update


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cmaes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs the package cmaes; pip install reprogram\[cma\]"):
        CMAES(D)
