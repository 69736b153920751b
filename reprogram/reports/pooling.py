"""Test predictions of several folds as one, and of several seeds side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reprogram.errors import DataError
from reprogram.evaluation.predictions import Predictions
from reprogram.reports.collect import OURS, Run

_SHOWN = 5  # ids in a message


@dataclass(frozen=True, eq=False)
class Pooled:
    """Test predictions of one experiment, each example once for each seed.

    Args:
        classifiers: Predictions of each seed by classifier, ``reprogrammed`` first; all of the same rows in the same
            order. A baseline has those seeds alone for which every fold computed it.
        seeds: Of the reprogrammed classifier.
        left_out: Seeds that tested fewer rows, and so cannot be averaged with the others.
    """

    classifiers: dict[str, list[Predictions]]
    seeds: list[int]
    left_out: list[int]

    @property
    def first(self) -> Predictions:
        """Those of the reprogrammed classifier and the first seed."""
        return self.classifiers[OURS][0]


def pool(runs: Sequence[Run]) -> Pooled:
    """Puts the folds of each seed together, and the seeds side by side.

    Raises:
        DataError: If two runs of one seed test the same example, or seeds disagree about targets or groups.
    """
    folds: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: int(run.record["seed"])):
        folds.setdefault(int(run.record["seed"]), []).append(run)
    ours = {seed: _joined(members, OURS) for seed, members in folds.items()}
    most = max(len(found.ids) for found in ours.values())
    complete = [seed for seed, found in ours.items() if len(found.ids) == most]
    like = ours[complete[0]]
    classifiers = {
        name: [
            aligned(_joined(folds[seed], name), like)
            for seed in complete
            if all(name in run.tested for run in folds[seed])
        ]
        for name in dict.fromkeys(name for run in runs for name in run.tested)
    }
    return Pooled(
        {name: found for name, found in classifiers.items() if found},
        complete,
        [seed for seed in ours if seed not in complete],
    )


def aligned(found: Predictions, like: Predictions) -> Predictions:
    """The same predictions with the rows in the order of others.

    Raises:
        DataError: If the ids, their targets or their groups are not the same.
    """
    row_of = {name: row for row, name in enumerate(found.ids)}
    differing = sorted(set(found.ids) ^ set(like.ids))
    if differing:
        raise DataError(
            f"expected predictions of the same test rows, got {len(found.ids)} and {len(like.ids)}, of which "
            f"{len(differing)} are in one of the two only: {_first(differing)}; give runs of one data set and split"
        )
    ordered = found.subset([row_of[name] for name in like.ids])
    changed = [name for name, one, two in zip(like.ids, ordered.targets, like.targets, strict=True) if one != two]
    if changed or ordered.groups != like.groups:
        what = f"targets of {len(changed)} test rows ({_first(changed)})" if changed else "groups of the test rows"
        raise DataError(f"expected the same data, but the {what} differ; give runs of one data set")
    return ordered


def _joined(runs: Sequence[Run], name: str) -> Predictions:
    """One classifier's predictions of disjoint folds, one after the other."""
    parts = [run.tested[name] for run in runs]
    tester: dict[str, Run] = {}
    for run, part in zip(runs, parts, strict=True):
        twice = [row for row in part.ids if row in tester]
        if twice:
            raise DataError(
                f"{len(twice)} examples are tested by both {tester[twice[0]].path} and {run.path}: {_first(twice)}; "
                "leave one of the two runs out, or give folds of one protocol.seed"
            )
        tester |= dict.fromkeys(part.ids, run)
    if len(parts) == 1:
        return parts[0]
    grouped = all(part.groups is not None for part in parts)
    shared = [key for key in parts[0].attributes if all(key in part.attributes for part in parts)]
    return Predictions(
        "test",
        tuple(row for part in parts for row in part.ids),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.scores for part in parts]),
        tuple(row for part in parts for row in part.groups or ()) if grouped else None,
        {key: tuple(value for part in parts for value in part.attributes[key]) for key in shared},
    )


def _first(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
