"""Makes sources from their config blocks, on the fast path of the device where they will run."""

from collections.abc import Mapping
from typing import Any

import torch

from reprogram import launched
from reprogram.checks import is_black_box
from reprogram.errors import ConfigError, ReprogramError, SourceError
from reprogram.instantiation import call, without
from reprogram.memory import keep_freed_memory
from reprogram.sources.base import SourceModel
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource, gains_from_bfloat16
from reprogram.types import TaskSpec

SPEED_KEYS = ("precision", "compile_mode", "checkpointing", "micro_batch")
SOURCE_KEYS = ("prepare", *SPEED_KEYS)  # of the fast path, not of the source

Config = dict[str, Any]


def device_type(accelerator: str) -> str:
    """``cuda`` or ``cpu`` for a Lightning accelerator name."""
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError("trainer: expected a GPU, found none that PyTorch can use; choose trainer=cpu")
    return "cuda" if on_gpu else "cpu"


def source(cfg: Config, device_type: str, task: TaskSpec) -> SourceModel:
    """The frozen source model as results are scored by it, prepared for its device unless ``source.prepare=false``.

    Unless a precision is asked for it computes in float32: bfloat16 turns over the decision on a few images in a
    hundred, and not on the same ones on other hardware.
    """
    return _source(cfg["source"], "source", task, device_type, processes=_processes(cfg))


def training_source(cfg: Config, device_type: str, task: TaskSpec) -> SourceModel:
    """The same to train with: a gradient does not feel bfloat16, but behind a black box differences of losses would."""
    return _source(
        cfg["source"], "source", task, device_type, "float32" if is_black_box(cfg) else "auto", _processes(cfg)
    )


def scoring_source(cfg: Config, device_type: str, task: TaskSpec, trained: SourceModel) -> SourceModel:
    """``source``, which may be the one that was trained with."""
    chosen = cfg["source"].get("precision", "auto") != "auto"
    same = chosen or is_black_box(cfg) or not gains_from_bfloat16(device_type)
    return trained if same else source(cfg, device_type, task)


def local_source(cfg: Config, device_type: str, task: TaskSpec) -> SourceModel:
    """The local backbone that a user of a black box could use instead."""
    return beside(cfg["evaluation"]["local_source"], "evaluation.local_source", task, device_type)


def network(cfg: Config, task: TaskSpec) -> NetworkSource:
    """A copy of the source whose weights may be trained: nothing else reads it.

    Raises:
        SourceError: If the source is not one network.
    """
    made = _source(cfg["source"], "source", task)
    if not isinstance(made, NetworkSource):
        raise SourceError(f"{made.spec.name}: expected one network whose weights can be trained, got another source")
    return made


def _processes(cfg: Config) -> int:
    """That ask the source together; a result that is loaded has no trainer."""
    return launched.processes(cfg["trainer"]) if "trainer" in cfg else 1


def _source(
    choice: Config,
    key: str,
    task: TaskSpec,
    device_type: str | None = None,
    auto: str = "float32",
    processes: int = 1,
) -> SourceModel:
    """A source from its block, on the fast path of a device where one is named."""
    if not isinstance(choice, Mapping):
        raise ConfigError(f"{key}: expected the keys of a source, got {choice!r}; choose one with +source@{key}=NAME")
    if isinstance(choice.get("members"), Mapping):  # sources within a source
        blocks = choice["members"].items()
        members = {
            name: _source(block, f"{key}.members.{name}", task, device_type, auto, processes) for name, block in blocks
        }
        choice = {**choice, "members": members}
    model: SourceModel = call(without(choice, SOURCE_KEYS), key, task_class_names=task.class_names, processes=processes)
    prepare = choice.get("prepare", False)  # not all can be rewritten
    if not isinstance(prepare, bool):
        raise ConfigError(f"{key}.prepare: expected true or false, got {prepare!r}")
    if device_type is None or not prepare:
        return model
    if not isinstance(model, NetworkSource):
        raise ConfigError(f"{key}.prepare: expected false, since {model.spec.name} is not one network, got true")
    speed = {name: choice[name] for name in SPEED_KEYS if name in choice}
    if speed.get("precision", "auto") == "auto":
        speed["precision"] = auto
    block = {"_target_": "reprogram.sources.prepared.PreparedSource", **speed}
    if device_type == "cpu":
        keep_freed_memory()
    prepared: PreparedSource = call(block, key, source=model, device_type=device_type)
    return prepared


def beside(choice: Config, key: str, task: TaskSpec, device_type: str) -> SourceModel:
    """A network that runs here, whatever the source is; an error tells it from the source."""
    try:
        return _source(choice, key, task, device_type)
    except ReprogramError as error:
        raise ConfigError(f"{key} cannot be made: {error}") from error
