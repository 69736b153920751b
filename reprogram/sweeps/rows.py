"""The jobs of a sweep, however it was run: what each chose and what came of it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reprogram.sweeps.space import Value

State = Literal["finished", "ended early", "failed", "not done"]


@dataclass(frozen=True)
class Row:
    """One job.

    Args:
        job: Its number.
        state: What became of it.
        values: What distinguishes it from the others.
        overrides: The whole command line.
        metric: Name of the metric of validation that counts.
        mode: ``max`` or ``min``: what is better of it.
        score: Its value; of a run that was ended early the last one.
        test: The same metric on test, with its interval.
        queries: What the job has asked of a black box.
        seconds: How long the last attempt took.
        run_dir: Where the run is.
        note: Why it failed.
    """

    job: int
    state: State
    values: dict[str, Value] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    metric: str = ""
    mode: str = "max"
    score: float | None = None
    test: Any = None
    queries: int | None = None
    seconds: float | None = None
    run_dir: str = ""
    note: str = ""

    @property
    def line(self) -> str:
        """A command that makes the run again, for any shell."""
        return shlex.join(["reprogram-train", *self.overrides])


def brief(value: Value) -> str:
    """A value as a table shows it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def finished(rows: Sequence[Row]) -> list[Row]:
    """Those with a score, the best first."""
    found = [row for row in rows if row.state == "finished" and row.score is not None]
    return sorted(found, key=lambda row: _worth(row), reverse=True)


def front(rows: Sequence[Row]) -> list[Row]:
    """Those that no other beats in score without more queries, the best score first."""
    kept: list[Row] = []
    for row in finished(rows):
        assert row.queries is not None
        if all(row.queries < other.queries for other in kept if other.queries is not None):
            kept.append(row)
    return kept


def _worth(row: Row) -> tuple[float, int]:
    assert row.score is not None
    return row.score if row.mode == "max" else -row.score, -(row.queries or 0)
