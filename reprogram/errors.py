"""What can go wrong by a user's hand: every message says what was expected, what was got, and the remedy."""

from collections.abc import Mapping
from typing import Any


class ReprogramError(Exception):
    """Root of all errors raised on purpose by this package; the commands print it without a traceback."""


class ConfigError(ReprogramError, ValueError):
    """A configuration value that cannot work."""


class ShapeError(ReprogramError, ValueError):
    """A tensor whose shape, dtype or range is not the agreed one."""


class DataError(ReprogramError, ValueError):
    """Target data that is missing, unreadable, inconsistent, or split so that a group leaks."""


class SourceError(ReprogramError, RuntimeError):
    """A source model that cannot be built, loaded, or is not the one a program was trained on."""


class RunError(ReprogramError, RuntimeError):
    """A run directory that is missing, unfinished, or belongs to another configuration."""


class RunPruned(ReprogramError, RuntimeError):  # noqa: N818 - the sweep ends a run, it is no accident
    """A run that a sweep has no more use for."""


class RunFinished(RunError):  # noqa: N818 - there is nothing left to do
    """A run directory that holds the results of the very configuration.

    Args:
        message: What was found.
        metrics: Contents of its ``metrics.json``.
    """

    def __init__(self, message: str, metrics: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.metrics = metrics


class ProcessLost(ReprogramError, RuntimeError):  # noqa: N818 - no error of this process
    """Another process of the run has died or hangs."""


class OracleError(ReprogramError, RuntimeError):
    """A black box that gave no usable answer."""


class QueryBudgetExceeded(ReprogramError, RuntimeError):  # noqa: N818 - the budget ends a run, it is no accident
    """More queries were wanted than the budget has left.

    Args:
        message: What was wanted, and the remedy.
        used: Queries spent so far, over all runs of the account.
        budget: Most queries that may ever be spent.
    """

    def __init__(self, message: str, used: int, budget: int) -> None:
        super().__init__(message)
        self.used, self.budget = used, budget
