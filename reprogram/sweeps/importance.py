"""How much of the differences between the runs of a sweep each key explains."""

import warnings
from collections.abc import Sequence
from typing import Any

from reprogram.sweeps.rows import Row, finished
from reprogram.sweeps.space import Value

LEAST = 4  # runs


def importance(rows: Sequence[Row], target: str) -> dict[str, float]:
    """Shares that sum to one, the largest first, by functional ANOVA on a random forest (Hutter et al., 2014).

    Empty where there is nothing to explain, or where Optuna is not installed.

    Args:
        rows: Jobs; the finished ones count.
        target: ``score`` or ``queries``.
    """
    try:
        import optuna
    except ImportError:
        return {}
    done = [row for row in finished(rows) if getattr(row, target) is not None]
    keys = [key for key in (done[0].values if done else ()) if all(key in row.values for row in done)]
    columns = {key: [row.values[key] for row in done] for key in keys}
    columns = {key: values for key, values in columns.items() if len(set(map(repr, values))) > 1}
    goals = [float(getattr(row, target)) for row in done]
    if len(done) < LEAST or not columns or len(set(goals)) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {key: _kind(values) for key, values in columns.items()}
    study = optuna.create_study()
    for index, goal in enumerate(goals):
        chosen = {key: _value(values[index], values) for key, values in columns.items()}
        study.add_trial(optuna.create_trial(value=goal, params=chosen, distributions=kinds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def is_numeric(values: Sequence[Value]) -> bool:
    """Whether values have an order and distances."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_logarithmic(values: Sequence[Any]) -> bool:
    """Whether orders of magnitude tell numbers apart better than distances."""
    return bool(min(values) > 0 and max(values) / min(values) >= 50)


def _kind(values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not is_numeric(values):
        return CategoricalDistribution(tuple(dict.fromkeys(map(str, values))))
    return FloatDistribution(float(min(values)), float(max(values)), log=is_logarithmic(values))


def _value(value: Any, values: Sequence[Any]) -> Any:
    return float(value) if is_numeric(values) else str(value)
