"""Starts a command: finds the configs, runs Hydra, and turns what a user got wrong into one readable message."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from reprogram import exit_codes, launched
from reprogram.commands.summary import failed_jobs
from reprogram.errors import ConfigError, ProcessLost, ReprogramError
from reprogram.preemption import Preempted

log = logging.getLogger(__name__)


def config_folder() -> Path:
    """``configs/`` of the checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def launch(config_name: str, task: Callable[[DictConfig], object]) -> None:
    """Runs a task under Hydra; exits with 2 and a message, not a traceback, on wrong use.

    Args:
        config_name: File in the config folder, without its ending.
        task: Gets the composed config.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets exceptions through to us

    failures: list[str] = []
    failed_jobs.clear()
    started: list[DictConfig] = []

    def guarded(cfg: DictConfig) -> object:
        started.append(cfg)
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            return task(cfg)
        except ReprogramError as error:
            if not multirun:
                _fail(str(error), exit_codes.LOST if isinstance(error, ProcessLost) else exit_codes.WRONG_USE)
            failures.append(str(error))
        except Exception as error:
            if not multirun:
                raise
            log.exception("this job failed, the sweep goes on")
            failures.append(f"{type(error).__name__}: {error}")
        log.error("error: %s", failures[-1])
        return {"failed": failures[-1]}

    try:
        hydra.main(config_path=str(config_folder()), config_name=config_name, version_base="1.3")(guarded)()
        if failures or failed_jobs:
            _fail(f"{len(failed_jobs or failures)} jobs of the sweep failed")
    except KeyboardInterrupt:
        print("\ninterrupted; checkpoints are kept, the same run_dir continues", file=sys.stderr)
        sys.exit(exit_codes.INTERRUPTED)
    except BrokenPipeError:
        if started:  # the task's own
            raise
        # whoever read the manual page (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may Python's last flush fail
        sys.exit(exit_codes.UNREAD)
    except Preempted:
        if launched.is_first():
            print("stopped by SIGTERM; the same command continues", file=sys.stderr)
        raise
    except ReprogramError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error, config_name))
    except ValueError as error:
        if started or "Config group override" not in str(error):  # Hydra has no class for this one
            raise
        groups = [override for override in sys.argv[1:] if override.endswith("=null")]
        _fail(f"{', '.join(groups)}: expected a choice; the manual page (--help) lists them")


@contextmanager
def importing() -> Iterator[None]:
    """Around the first import of PyTorch and Lightning: keeps the garbage collector off what that makes, for good.

    Half a million objects are made, none of them garbage; to look through them again and again is a seventh of the time
    to the first training step.
    """
    if "torch" in sys.modules:  # a later job of a sweep: what the one before has left must be collected
        yield
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def explain(error: Exception, config_name: str, overrides: Sequence[str] | None = None) -> str:
    """Hydra's message in few words, with the nearest existing group, choice or key.

    Args:
        error: The exception.
        config_name: What was to be composed.
        overrides: What was asked for; ``None``: the command line.
    """
    overrides = sys.argv[1:] if overrides is None else overrides
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    if message.startswith("Could not override"):  # Hydra's remedy stands last
        message = f"{message} {lines[-1]}"
    for override in overrides:
        name = override.split("=", 1)[0].lstrip("+~").split("@")[0]  # group@package
        if "=" in override and not name.startswith("hydra") and (hint := _hint(override, name, config_name, overrides)):
            return hint
    return message


def _hint(override: str, name: str, config_name: str, overrides: Sequence[str]) -> str | None:
    """What is wrong with one override, if it names a group, choice or key that does not exist."""
    folder = config_folder()
    group = folder / name
    if group.is_dir():
        choice = override.split("=", 1)[1]
        known = sorted(str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml"))
        known = [found for found in known if not Path(found).name.startswith("_")]
        if choice not in known and "," not in choice:
            return f"{name}={choice}: there is no such choice; {_near(choice, known)}"
        return None
    if override.startswith("+"):  # it is meant to be new
        return None
    try:
        known = _known_keys(config_name, overrides)
    except (HydraException, OmegaConfBaseException):  # the choices themselves do not compose
        return None
    if name not in known and not any(name.startswith(f"{found}.") and found.endswith("kwargs") for found in known):
        return f"{name}: there is no such key or group; {_near(name, known)}"
    return None


def _known_keys(config_name: str, overrides: Sequence[str]) -> list[str]:
    """Groups and dotted keys of the configuration composed from the same group choices."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import initialize_config_dir
    from omegaconf import OmegaConf

    folder = config_folder()
    groups = [path.name for path in folder.iterdir() if path.is_dir()]
    choices = [
        override
        for override in overrides
        if (name := override.split("=", 1)[0].lstrip("+").split("@")[0]) in groups
        and (folder / name / f"{override.split('=', 1)[-1]}.yaml").is_file()
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        cfg = OmegaConf.to_container(compose(config_name, overrides=choices), resolve=False)
    return [*groups, *_paths(cfg)]


def _paths(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    found = []
    for key, value in node.items():
        found += [f"{prefix}{key}", *_paths(value, f"{prefix}{key}.")]
    return found


def _near(word: str, known: list[str]) -> str:
    last = word.split(".")[-1]
    same_last = [found for found in known if found.split(".")[-1] == last]  # right, but under another parent
    near = list(dict.fromkeys([*same_last, *get_close_matches(word, known, n=2, cutoff=0.6)]))[:3]
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(set(known))[:20])}"


def _fail(message: str, code: int = exit_codes.WRONG_USE) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def refuse_missing(cfg: DictConfig, *keys: str) -> None:
    """Refuses a command line that leaves out what the command cannot guess.

    Raises:
        ConfigError: Naming the keys.
    """
    from omegaconf import OmegaConf

    missing = [key for key in keys if OmegaConf.is_missing(cfg, key)]
    if missing:
        raise ConfigError("; ".join(f"{key}: is required; set {key}=..." for key in missing))
