"""CMA-ES: a population around theta, whose shape follows what went well."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reprogram.distributed import from_first_process
from reprogram.errors import ConfigError
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.directions import Directions
from reprogram.estimators.zeroth_order import batch_losses, evaluate_sides, expect_positive, expect_whole, step_loss
from reprogram.objective import BatchObjective
from reprogram.types import StepLoss

MOST_PARAMETERS = {"diagonal": 1_000_000, "full": 1000}
"""D x D numbers, and D^3 operations for each member, set a bound to the full covariance."""


class CMAES(GradientEstimator):
    """Moves theta to the weighted mean of the best of a population, and adapts step size and covariance.

    Costs lambda queries an example; the rule makes its own steps. The loss that ranks is that of the global batch.

    Args:
        dimension: D.
        population: lambda >= 4; ``None``: 4 + floor(3 log D).
        sigma: First standard deviation, > 0, of each of the program's parameters, in their units.
        covariance: ``diagonal`` (sep-CMA-ES) or ``full`` (D <= 1000; learned in some D^2 steps).

    Raises:
        ConfigError: If a number is out of range, the covariance has no such name or is too large, or the package
            ``cmaes`` is missing.

    Reference:
        The CMA Evolution Strategy: A Tutorial, Hansen, 2016, arXiv:1604.00772; diagonal: Ros and Hansen, PPSN 2008.
        As in the package cmaes (Nomura and Shibata, 2024, arXiv:2402.01373). Differences: it never stops by itself.
    """

    def __init__(
        self, dimension: int, population: int | None = None, sigma: float = 0.3, covariance: str = "diagonal"
    ) -> None:
        super().__init__()
        if covariance not in MOST_PARAMETERS:
            raise ConfigError(f"estimator.covariance: expected diagonal or full, got '{covariance}'")
        if not 2 <= dimension <= MOST_PARAMETERS[covariance]:
            raise ConfigError(
                f"estimator.covariance={covariance}: expected a program of 2 to {MOST_PARAMETERS[covariance]} "
                f"parameters, got {dimension}; choose another program.resolution or estimator.covariance=diagonal"
            )
        if population is not None:
            expect_whole("population", population, least=4)
        expect_positive("sigma", sigma)
        try:
            import cmaes
        except ImportError as error:
            raise ConfigError("estimator=cma_es: needs the package cmaes; pip install reprogram[cma]") from error
        self._kind = cmaes.SepCMA if covariance == "diagonal" else cmaes.CMA
        self._search: Any = None
        self.population = population or 4 + math.floor(3 * math.log(dimension))
        self.sigma = sigma

    @property
    def owns_update(self) -> bool:
        """Yes: the new mean is the whole step."""
        return True

    @property
    def needs_scores(self) -> bool:
        """No: it compares points far enough apart for labels to differ."""
        return False

    @property
    def queries_per_example(self) -> int:
        """The population."""
        return self.population

    def step(self, objective: BatchObjective, key: StepKey) -> StepLoss:
        """See ``GradientEstimator``; the losses are means over the population."""
        theta = objective.theta.detach()
        if self._search is None:
            start = theta.cpu().double().numpy().copy()  # it moves in place
            self._search = self._kind(mean=start, sigma=self.sigma, population_size=self.population)
        self._search.reseed_rng(int(np.random.SeedSequence(key).generate_state(1)[0]))
        # the first process's, since an eigenvector has two signs and a processor may choose either
        asked = from_first_process([self._search.ask() for _ in range(self.population)])
        answers = evaluate_sides(objective, torch.from_numpy(np.stack(asked)).to(theta)[:, None])
        found = batch_losses(objective, answers.losses).tolist()
        self._search.tell(list(zip(asked, found, strict=True)))
        return step_loss(objective, theta - torch.from_numpy(self._search.mean).to(theta), answers)

    def typical_point(self, theta: Tensor) -> Tensor:
        """See ``GradientEstimator``."""
        return theta + self.sigma * Directions("gaussian", 1, per_example=False).typical(theta)

    def get_extra_state(self) -> dict[str, Any]:
        """The search as tensors and plain numbers: a checkpoint is never unpickled; empty before the first step.

        Random numbers are no part of it: they are a function of the step's key.
        """
        state = {} if self._search is None else self._search.__getstate__()
        return {name: _plain(value) for name, value in state.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes the search up where ``get_extra_state`` left it."""
        self._search = None
        if state:
            self._search = self._kind.__new__(self._kind)
            self._search.__setstate__({name: _numpy(value) for name, value in state.items()})


def _plain(value: Any) -> Any:
    """An array as a tensor of its own, a numpy number as a Python one."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    return value.item() if isinstance(value, np.generic) else value


def _numpy(value: Any) -> Any:
    return value.detach().cpu().numpy().copy() if isinstance(value, Tensor) else value
