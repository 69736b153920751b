"""Runs that differ only in seed or fold are one experiment; its heading says what it is in few words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reprogram.checks import is_black_box
from reprogram.reports.collect import Run, without_folders

_PROTOCOLS = {"KFold": "{folds} folds", "LeaveOneOut": "leave one {attribute} out"}
_REPEATS = ("seed", "run_dir", "resume", "logger", "paper")  # what may differ between the runs of an experiment
_REPEATS_WITHIN = {
    "protocol": ("fold", "index", "value"),
    "trainer": ("enable_progress_bar",),
    "access": ("ledger", "dry_run"),
    "evaluation": ("baselines",),  # those that do not depend on the seed need not be computed for each
}
_MOST_NAMED = 4  # differing keys in a heading


@dataclass(frozen=True, eq=False)
class Experiment:
    """Runs of one configuration.

    Args:
        heading: Task, source, access, program and mapping, protocol, and whatever else tells it from the others.
        runs: At least one.
    """

    heading: str
    runs: list[Run]


def group(runs: Sequence[Run]) -> list[Experiment]:
    """Puts runs together whose configurations are equal but for seed and fold, in order of first appearance."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.record["task"], run.record["source"], _essence(run.config)], sort_keys=True, default=str)
        together.setdefault(key, []).append(run)
    alike: dict[str, list[list[Run]]] = {}
    for members in together.values():
        alike.setdefault(_heading(members[0]), []).append(members)
    named = {}
    for heading, namesakes in alike.items():
        choices = [_flat(_essence(members[0].config)) for members in namesakes]
        keys = dict.fromkeys(key for choice in choices for key in choice)
        differing = [key for key in keys if len({json.dumps(choice.get(key)) for choice in choices}) > 1]
        for members, choice in zip(namesakes, choices, strict=True):
            told = [_told(key, choice.get(key)) for key in differing[:_MOST_NAMED]]
            named[id(members)] = " · ".join([heading, *told])
    return [Experiment(named[id(members)], members) for members in together.values()]


def protocol_of(run: Run) -> str:
    """Class name of the protocol, such as ``KFold``."""
    return str(run.config["protocol"]["_target_"]).rsplit(".", 1)[-1]


def _heading(run: Run) -> str:
    config = run.config
    program, mapping = (str(config[block]["_target_"]).split(".")[-2] for block in ("program", "mapping"))
    parts = [run.record["task"], run.record["source"], "black box" if is_black_box(config) else "white box"]
    parts.append(f"{program} + {mapping}")
    if protocol_of(run) in _PROTOCOLS:
        parts.append(_PROTOCOLS[protocol_of(run)].format_map(config["protocol"]))
    return " · ".join(parts)


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what only repeats a run."""
    kept = {key: value for key, value in config.items() if key not in _REPEATS}
    for block, keys in _REPEATS_WITHIN.items():
        kept[block] = {key: value for key, value in kept.get(block, {}).items() if key not in keys}
    return kept


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested blocks as dotted keys."""
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): node}
    return {key: value for name, part in node.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


def _told(key: str, value: object) -> str:
    """Such as ``program.size=128``; of a class only its name."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rsplit('.', 1)[-1]}"
    return f"{key}={'null' if value is None else without_folders(str(value))}"
