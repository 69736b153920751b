"""``reprogram-sweep``: a search over the configuration of runs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reprogram.commands.launch import explain, importing, launch
from reprogram.errors import ConfigError, RunError

if TYPE_CHECKING:
    from reprogram.sweeps.plan import Sweep

OWN = ("sweep", "summary")  # keys that are not of a run


def main() -> None:
    """Entry point."""
    launch("sweep", _sweep)


def _sweep(cfg: DictConfig) -> None:
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        raise ConfigError("-m: reprogram-sweep is a sweep by itself; for a grid choose sweep=grid")
    own = [override for override in job.overrides.hydra if not override.startswith("hydra.mode=")]
    if own or any(source.provider == "command-line" for source in job.runtime.config_sources):
        raise ConfigError(
            f"{own[0] if own else '--config-dir'}: expected none in a sweep, as its runs would not have it; give the "
            "values on the line"
        )
    try:
        import optuna  # noqa: F401 - named in the message
    except ImportError as error:
        raise ConfigError("reprogram-sweep: needs the package optuna; pip install 'reprogram[sweep]'") from error
    from reprogram.sweeps.plan import plan

    if cfg.summary is not None:
        with _kept():
            return _show(str(cfg.summary), cfg.sweep.storage)
    overrides = [override for override in job.overrides.task if not _is_own(override)]
    block: Any = OmegaConf.to_container(cfg.sweep, resolve=True)
    run: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in ("run_dir", "resume"):
        if run[key] is not None:
            raise ConfigError(f"{key}: a sweep gives every run a folder of its own, in sweep.folder")
    if run["access"].get("dry_run"):
        raise ConfigError("access.dry_run: is of one run; set sweep.dry_run=true")
    sweep, chosen = plan(block, overrides, run)
    _rehearse(sweep)
    _announce(sweep)
    if not chosen.dry_run:
        with _kept():
            _run(sweep)


def _is_own(override: str) -> bool:
    name = override.split("=", 1)[0].lstrip("+~")
    return name.replace("/", ".").split("@")[0].split(".")[0] in OWN


def _rehearse(sweep: "Sweep") -> None:
    """Refuses what no run could be made from: each value once, the others at the first of theirs.

    Raises:
        ConfigError: Naming the key.
    """
    from reprogram.sources.account_server import SCHEME, AccountServer
    from reprogram.sweeps.samplers import rehearse
    from reprogram.sweeps.storage import check_url

    if sweep.storage is not None:
        check_url(sweep.storage)
    rehearse(sweep)
    with importing():
        from reprogram.build import plain
        from reprogram.composed import check_blocks
    first = {parameter.key: parameter.extremes()[0] for parameter in sweep.parameters}
    for parameter in sweep.parameters:
        for value in parameter.extremes():
            overrides = sweep.job_overrides({**first, parameter.key: value})
            try:
                check_blocks(plain(compose("train", overrides)))
            except (HydraException, OmegaConfBaseException) as error:
                raise ConfigError(f"sweep.space.{parameter.key}: {explain(error, 'train', overrides)}") from error
            except ConfigError as error:
                raise ConfigError(f"with {parameter.key}={value}: {error}") from error
    if sweep.ledger is not None and sweep.ledger.startswith(SCHEME):
        AccountServer(sweep.ledger)


def _announce(sweep: "Sweep") -> None:
    for position, line in enumerate(_plan(sweep)):
        print(f"{'' if position else 'plan':<8} {line}")


def _plan(sweep: "Sweep") -> Iterator[str]:
    """What will be done, and the most it can cost."""
    keys = ", ".join(parameter.key for parameter in sweep.parameters)
    yield f"{sweep.jobs} jobs, {sweep.workers} at a time, over {keys}"
    if sweep.job_budget is not None:
        most = sweep.jobs * sweep.job_budget if sweep.ledger is None else sweep.job_budget
        most = most if sweep.query_budget is None else min(most, sweep.query_budget)
        price = sweep.price_per_1000
        yield f"at most {most:,} queries" + ("" if price is None else f", {most / 1000 * price:,.2f} in your currency")
        if most < sweep.jobs * sweep.job_budget and sweep.ledger is None:
            yield f"enough for {most // sweep.job_budget} jobs that use all of theirs; further ones if some need less"
    yield f"records  {sweep.folder}"


@contextmanager
def _kept() -> Iterator[None]:
    """Around what reads and writes the sweep.

    Raises:
        RunError: If the storage, or the disk, is lost meanwhile.
    """
    from reprogram.sweeps.storage import STORAGE_ERRORS, reason

    try:
        yield
    except STORAGE_ERRORS as error:
        raise RunError(f"sweep.storage or sweep.folder: lost ({reason(error)}); the same command goes on") from error


def _run(sweep: "Sweep") -> None:
    from reprogram.sweeps.local import run_workers
    from reprogram.sweeps.queue import fill
    from reprogram.sweeps.results import rows
    from reprogram.sweeps.storage import open_study
    from reprogram.sweeps.summary import summarise

    study = open_study(sweep)
    fill(study, sweep)  # before there are several that would
    sweep.save()
    run_workers(sweep)
    found = rows(study, sweep)
    summarise(found, Path(sweep.folder), len(sweep.objectives) > 1)
    states = Counter(row.state for row in found if row.job < sweep.jobs)  # there were more once
    unbegun = sweep.jobs - states.total()
    if sweep.query_budget is None:
        states["not done"] += unbegun
    elif unbegun:
        print(f"budget   {unbegun} jobs were not begun: sweep.query_budget leaves too little for another")
    if states["failed"] or states["not done"]:
        counts = f"{states['failed']} jobs of the sweep failed, {states['not done']} were not done"
        raise RunError(f"{counts}; the same command does the latter")


def _show(which: str, storage: str | None) -> None:
    from reprogram.sweeps.plan import read_sweep
    from reprogram.sweeps.results import rows
    from reprogram.sweeps.storage import kept_sweep, load_study
    from reprogram.sweeps.summary import summarise

    folder = Path(which)
    if storage is not None:
        study = load_study(folder, storage, which)
        sweep = kept_sweep(study)
        folder = Path(sweep.folder)
    else:
        sweep = read_sweep(folder)
        study = load_study(folder, sweep.storage, sweep.name)
    summarise(rows(study, sweep), folder, len(sweep.objectives) > 1)


if __name__ == "__main__":
    main()
