"""What chooses the values of the next job, and what ends a job early."""

from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import Trial, TrialState

from reprogram.errors import ConfigError
from reprogram.instantiation import call
from reprogram.sweeps.plan import Sweep
from reprogram.sweeps.space import Value


def sampler(sweep: Sweep, job: int) -> BaseSampler:
    """The sampler for one job: its seed names the job, so that it does not matter which worker asks."""
    if sweep.sampler is None:  # all is settled
        return RandomSampler()
    seed = int(np.random.SeedSequence((sweep.seed, job)).generate_state(1)[0])
    made: BaseSampler = call(sweep.sampler, "sweep.sampler", seed=seed)
    return made


def pruner(sweep: Sweep) -> BasePruner:
    """The pruner of all jobs."""
    made: BasePruner = NopPruner() if sweep.pruner is None else call(sweep.pruner, "sweep.pruner")
    return made


def choose(trial: Trial, sweep: Sweep) -> dict[str, Value]:
    """A value for each key of the space."""
    kinds: dict[str, Any] = {parameter.key: parameter.distribution() for parameter in sweep.parameters}
    chosen: dict[str, Value] = {}
    for key, kind in kinds.items():
        if isinstance(kind, optuna.distributions.CategoricalDistribution):
            chosen[key] = trial.suggest_categorical(key, kind.choices)
        elif isinstance(kind, optuna.distributions.IntDistribution):
            chosen[key] = trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
        else:
            chosen[key] = trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)
    return chosen


def rehearse(sweep: Sweep) -> None:
    """Lets sampler and pruner work on made-up results, before anything is run.

    Raises:
        ConfigError: If they cannot work with this space and these objectives.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=sweep.directions, pruner=pruner(sweep), sampler=sampler(sweep, 0))
    try:
        for job in range(3):
            study.sampler = sampler(sweep, job)
            if sweep.sampler is None:
                study.enqueue_trial(sweep.fixed(0))
            trial = study.ask()
            choose(trial, sweep)
            if sweep.pruner is not None:
                trial.report(float(job), 1)
                trial.should_prune()
            study.tell(trial, [float(job)] * len(sweep.directions), TrialState.COMPLETE)
    except ImportError as error:
        raise ConfigError(f"sweep: {error}; pip install 'reprogram[sweep]'") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"sweep: {error}") from error
