"""What every data config and every embedded task keeps (DESIGN section 6)."""

import inspect
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from reprogram.data.base import SPLITS, TargetData, TaskData

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted((FOLDER / "data").rglob("[!_]*.yaml"))
EMBEDDED = {
    "breast_cancer": {"count": 569, "classes": 2},
    "digits": {"count": 1797, "classes": 10},
    "squares": {"count": 3500, "classes": 10},
}


def arguments(config: Path) -> dict[str, Any]:
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        values = OmegaConf.to_container(compose(f"data/{config.stem}").data)
    assert isinstance(values, dict)
    assert values.pop("batch_size") > 0
    assert values.pop("augmentation") is None  # off unless asked for
    return {str(key): value for key, value in values.items()}


@pytest.fixture(scope="module", params=sorted(EMBEDDED))
def embedded(request: pytest.FixtureRequest) -> tuple[str, TaskData]:
    config = next(path for path in CONFIGS if path.stem == request.param)
    return request.param, instantiate(arguments(config)).load()


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} == {*EMBEDDED, "npz", "folder", "csv", "medmnist"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_gives_every_argument_and_repeats_its_default(config: Path) -> None:
    values = arguments(config)
    leaf = get_class(values.pop("_target_"))
    assert issubclass(leaf, TargetData)
    parameters = inspect.signature(leaf).parameters
    assert set(values) == set(parameters)
    for name, parameter in parameters.items():
        assert values[name] == ("???" if parameter.default is parameter.empty else parameter.default), name


def test_an_embedded_task_is_as_large_as_published(embedded: tuple[str, TaskData]) -> None:
    name, data = embedded
    assert sum(len(examples) for examples in data.splits.values()) == EMBEDDED[name]["count"]
    assert data.spec.num_classes == EMBEDDED[name]["classes"]
    assert data.spec.name == name
    assert not data.spec.private


def test_the_splits_of_an_embedded_task_are_disjoint_and_hold_every_class(embedded: tuple[str, TaskData]) -> None:
    _, data = embedded
    for one, other in combinations(SPLITS, 2):
        assert not set(data.splits[one].ids) & set(data.splits[other].ids)
    for examples in data.splits.values():
        assert examples.targets.unique().tolist() == list(range(data.spec.num_classes))


def test_an_embedded_task_uses_the_range_and_only_its_support(embedded: tuple[str, TaskData]) -> None:
    _, data = embedded
    images = data.splits["train"].images
    assert images.min() < 16
    assert images.max() == 255
    assert tuple(images.shape[-2:]) == data.spec.image_size
    if data.spec.support is not None:
        assert not images[:, :, ~data.spec.support].any()


def test_an_embedded_task_names_licence_and_citation(embedded: tuple[str, TaskData]) -> None:
    _, data = embedded
    assert data.spec.licence not in ("", "unknown")
    assert data.spec.citation not in ("", "unknown")


def test_an_embedded_task_is_the_same_every_time(embedded: tuple[str, TaskData]) -> None:
    name, data = embedded
    again = instantiate(arguments(next(path for path in CONFIGS if path.stem == name))).load()
    for split in SPLITS:
        assert again.splits[split].ids == data.splits[split].ids
        assert torch.equal(again.splits[split].images, data.splits[split].images)
