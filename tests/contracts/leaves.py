"""The leaves of every interface, as the config folder lists them."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from reprogram.build import ACCESS_KEYS, DATA_KEYS, PROTOCOL_KEYS
from reprogram.instantiation import call
from reprogram.mappings.base import LabelMapping
from reprogram.sourcing import SOURCE_KEYS

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = (
    *("program", "mapping", "estimator", "loss", "regularizer", "optimizer", "scheduler", "source", "access", "data"),
    "protocol",
)
NOT_OF_THE_TARGET = {
    "program": ("defaults",),
    "source": (*SOURCE_KEYS, "defaults"),
    "access": ACCESS_KEYS,
    "data": (*DATA_KEYS, "defaults"),
    "protocol": (*PROTOCOL_KEYS, "defaults"),
    "optimizer": ("mapping_lr",),
}
FACTS = {  # arguments that code gives and no YAML may repeat
    "program": {"canvas", "support", "seed", "encoder"},
    "mapping": {"source_classes", "target_classes", "seed"},
    "estimator": {"dimension"},
    "source": {"task_class_names", "processes"},
    "access": {"source", "ledger", "priced"},
    "loss": {"class_counts"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps"},
}


def configs(group: str) -> list[Path]:
    found = sorted(path for path in (CONFIGS / group).rglob("*.yaml") if not path.name.startswith("_"))
    assert found, f"no config under {group}"
    return found


def block(path: Path) -> dict[str, Any]:
    """The arguments of one config's target; a scheduler may have none."""
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(values, dict)
    shared = [path.with_name(f"{name}.yaml") for name in values.get("defaults", ()) if isinstance(name, str)]
    for file in filter(Path.is_file, shared):
        values = {**block(file), **values}
    group = path.relative_to(CONFIGS).parts[0]
    return {str(key): value for key, value in values.items() if key not in NOT_OF_THE_TARGET.get(group, ())}


def target(values: dict[str, Any]) -> Callable[..., Any]:
    module, _, name = values["_target_"].rpartition(".")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def each(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("config", configs(group), ids=lambda path: path.stem)


SOURCE_CLASSES = 12


def mapping(config: Path, target_classes: int, source_classes: int = SOURCE_CLASSES, **changes: Any) -> LabelMapping:
    """A mapping from its config; one that is found by the names of classes is given what a run would find."""
    values = {**block(config), **changes}
    if config.stem == "semantic":
        m = values["per_class"]
        values["given"] = [list(range(t * m, t * m + m)) for t in range(target_classes)]
    facts = {"source_classes": source_classes, "target_classes": target_classes, "seed": 0}
    made: LabelMapping = call(values, "mapping", **facts)
    return made
