"""What a search is: read from the ``sweep`` block, and kept with its results."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from reprogram.errors import ConfigError, RunError
from reprogram.instantiation import call
from reprogram.sweeps.space import Parameter, Value, grid, override, read_space

FILE = "sweep.json"

_OPERATION = (  # may change from one command to the next that work on the same results
    *("folder", "storage", "jobs", "retries", "grace", "workers", "devices", "query_budget", "price_per_1000"),
)


@dataclass(frozen=True)
class Settings:
    """The plain keys of the ``sweep`` block, as ``configs/sweep/_base.yaml`` describes them."""

    objectives: list[Literal["score", "queries"]]
    jobs: int | None
    seed: int
    workers: int
    devices: list[int] | None
    retries: int
    grace: int
    name: str | None
    folder: str | None
    storage: str | None
    query_budget: int | None
    dry_run: bool

    def __post_init__(self) -> None:
        """Refuses numbers that cannot work."""
        for key, least in {"jobs": 1, "seed": 0, "workers": 1, "retries": 0, "grace": 2, "query_budget": 1}.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise ConfigError(f"sweep.{key}: expected a whole number >= {least}, got {value}")
        if sorted(self.objectives) not in (["score"], ["queries", "score"]):
            raise ConfigError(f"sweep.objectives: expected [score] or [score,queries], got {self.objectives}")


@dataclass(frozen=True)
class Sweep:
    """A search: what is run, what may be chosen, and what counts.

    Args:
        name: Of the study.
        folder: Gets the run directories and the summary.
        storage: URL of a database; ``None``: a journal file in the folder.
        overrides: What all runs have in common, as on a command line.
        space: A range or choices for each key.
        objectives: ``score``, and perhaps ``queries``.
        monitor: Metric of validation that is the score, ``val/<name>``.
        mode: ``max`` or ``min``: what is better of it.
        sampler: Block of an Optuna sampler; ``None``: every combination of the choices.
        pruner: Block of an Optuna pruner; ``None``: every run goes on to its end.
        seed: Of the sampler.
        jobs: How many results are wanted.
        retries: How often a job that failed is tried again.
        grace: Seconds without a sign of life after which a worker is taken for dead.
        workers: How many jobs run here at a time.
        devices: GPUs of the workers, in turn.
        job_budget: Most queries of one job.
        query_budget: Most queries of all jobs together.
        price_per_1000: What queries cost.
        ledger: The account that the jobs share, if they do.
    """

    name: str
    folder: str
    storage: str | None
    overrides: list[str]
    space: dict[str, Any]
    objectives: list[str]
    monitor: str
    mode: str
    sampler: dict[str, Any] | None
    pruner: dict[str, Any] | None
    seed: int
    jobs: int
    retries: int
    grace: int
    workers: int
    devices: list[int] | None
    job_budget: int | None
    query_budget: int | None
    price_per_1000: float | None
    ledger: str | None

    @property
    def parameters(self) -> list[Parameter]:
        """What a job chooses."""
        return read_space(self.space)

    @property
    def directions(self) -> list[Any]:
        """As Optuna calls them, one for each objective."""
        return [f"{self.mode}imize" if name == "score" else "minimize" for name in self.objectives]

    def fixed(self, job: int) -> dict[str, Value]:
        """What is settled before a job is asked for: all of it in a grid, nothing in a search."""
        return grid(self.parameters)[job] if self.sampler is None else {}

    def job_overrides(self, values: Mapping[str, Value]) -> list[str]:
        """The command line of one job, without its folder."""
        return [*self.overrides, *(override(key, value) for key, value in values.items())]

    def run_dir(self, job: int, values: Mapping[str, Value]) -> Path:
        """The same for the same job and values, so that an attempt goes on where the one before was cut off."""
        return Path(self.folder) / f"{job:03d}_{_digest(self.job_overrides(values))[:6]}"

    def definition(self) -> dict[str, Any]:
        """What must stay the same for results to belong together."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", *_OPERATION)}

    def save(self) -> None:
        """Writes the sweep into its folder, for its summary; there is no secret in it."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        (Path(self.folder) / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def from_record(record: Mapping[str, Any], where: str) -> Sweep:
    """The sweep that was saved.

    Raises:
        RunError: If the record is of another version.
    """
    expected = {field.name for field in fields(Sweep)}
    if set(record) != expected:
        raise RunError(f"{where}: made by another version (differing: {', '.join(sorted(expected ^ set(record)))})")
    return Sweep(**record)


def read_sweep(folder: Path) -> Sweep:
    """The sweep of a folder.

    Raises:
        RunError: If there is none.
    """
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: expected the folder of a sweep, but its {FILE} cannot be read ({error})") from error
    return from_record({**record, "folder": str(folder)}, str(folder / FILE))  # it may have been moved


def plan(block: Mapping[str, Any], overrides: Sequence[str], run: Mapping[str, Any]) -> tuple[Sweep, Settings]:
    """The sweep that a command line asks for.

    Args:
        block: The ``sweep`` block of the configuration.
        overrides: The rest of the command line: of every run.
        run: Configuration that they make.

    Raises:
        ConfigError: If a value is wrong.
    """
    block = dict(block)
    space, sampler, pruner = (block.pop(key, None) for key in ("space", "sampler", "pruner"))
    chosen: Settings = call({"_target_": f"{__name__}.Settings", **block}, "sweep")
    for key, value in {"sampler": sampler, "pruner": pruner}.items():
        if value is not None and not (isinstance(value, dict) and "_target_" in value):
            raise ConfigError(f"sweep.{key}: expected null or a block with _target_, got {value!r}")
    parameters = read_space(space or {})
    access = run["access"]
    job_budget = access.get("query_budget")
    _check_queries(chosen, access, parameters)
    if len(chosen.objectives) > 1 and pruner is not None:
        raise ConfigError("sweep.pruner: expected null with two objectives, of which a curve shows one")
    jobs = chosen.jobs
    if sampler is None:
        size = len(grid(parameters))
        if jobs is not None and jobs > size:
            raise ConfigError(f"sweep.jobs: expected at most {size}, the combinations there are, got {jobs}")
        jobs = size if jobs is None else jobs
    if jobs is None:
        raise ConfigError("sweep.jobs: expected a whole number, got null, which means all of a grid")
    values = {
        "name": "", "folder": "", "storage": chosen.storage, "overrides": list(overrides), "space": space,
        "objectives": sorted(chosen.objectives, key=("score", "queries").index),
        "monitor": run["callbacks"]["monitor"], "mode": run["callbacks"]["mode"], "sampler": sampler, "pruner": pruner,
        "seed": chosen.seed, "jobs": jobs, "retries": chosen.retries, "grace": chosen.grace,
        "workers": chosen.workers, "devices": chosen.devices, "job_budget": job_budget,
        "query_budget": chosen.query_budget, "price_per_1000": access.get("price_per_1000"),
        "ledger": access.get("ledger"),
    }  # fmt: skip
    name = chosen.name or f"sweep_{_digest(Sweep(**values).definition())[:8]}"
    return Sweep(**{**values, "name": name, "folder": chosen.folder or f"runs/{name}"}), chosen


def _check_queries(chosen: Settings, access: Mapping[str, Any], parameters: Sequence[Parameter]) -> None:
    black_box = access.get("_target_") is not None
    if not black_box and (chosen.query_budget is not None or "queries" in chosen.objectives):
        raise ConfigError(
            "sweep: query_budget and the objective 'queries' count what a black box is asked; set recipe=black_box"
        )
    if chosen.query_budget is None:
        return
    if access["ledger"] is not None:
        raise ConfigError(
            "sweep.query_budget: expected null with access.ledger, whose own access.query_budget bounds all jobs"
        )
    if access["query_budget"] is None or any(parameter.key == "access.query_budget" for parameter in parameters):
        raise ConfigError("sweep.query_budget: needs an access.query_budget that bounds every job, the same for all")
    if access["query_budget"] > chosen.query_budget:
        raise ConfigError(
            f"sweep.query_budget: expected at least {access['query_budget']}, the access.query_budget of one job, got "
            f"{chosen.query_budget}"
        )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
