"""The training rows of a task, labelled or not: what an active learner chooses from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprogram.data.base import Examples, Table
from reprogram.data.protocols import FixedSplit, Protocol, Selection
from reprogram.data.task import chosen_splits
from reprogram.types import TaskSpec


@dataclass(frozen=True, eq=False)
class Pool:
    """All training rows of a task.

    Args:
        spec: The task's facts.
        examples: The rows; the target of one that is not labelled is 0.
        known: Class of each row as the data have it, -1 where they have none.
        held_out: ``val`` and ``test``.

    Shapes:
        known: [N] int64.
    """

    spec: TaskSpec
    examples: Examples
    known: NDArray[np.int64]
    held_out: dict[str, Examples]


def load_pool(table: Table, protocol: Protocol | None = None, selection: Selection | None = None) -> Pool:
    """Reads the very training rows that ``load_task`` takes the labelled ones from.

    Args:
        table: The rows.
        protocol: Who is trained on and tested; ``None``: the split of the data, completed.
        selection: How much of it; ``None``: everything, without an image in two splits.

    Raises:
        DataError: If images cannot be read, an image is in two splits, or a row of ``val`` or ``test`` has no label.
    """
    spec, splits = chosen_splits(table, protocol or FixedSplit(), selection or Selection(), labelled=False)
    target_of = dict(zip(table.ids, table.targets.tolist(), strict=True))
    known = np.array([target_of[name] for name in splits["train"].ids], dtype=np.int64)
    return Pool(spec, splits.pop("train"), known, splits)
