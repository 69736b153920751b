"""What every data config and every embedded task keeps (DESIGN section 6)."""

import inspect
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from reprogram.data.base import SPLITS, TargetData, TaskData
from reprogram.data.sklearn_tasks import BreastCancerData
from reprogram.data.task import load_task

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted((FOLDER / "data").rglob("[!_]*.yaml"))
EMBEDDED = {
    "breast_cancer": {"count": 569, "classes": 2},
    "digits": {"count": 1797, "classes": 10},
    "squares": {"count": 3500, "classes": 10},
}


@cache
def composed(config: Path) -> Any:
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return compose(f"data/{config.stem}").data


def arguments(config: Path) -> dict[str, Any]:
    values = OmegaConf.to_container(composed(config))
    assert isinstance(values, dict)
    assert values.pop("batch_size") > 0
    assert values.pop("augmentation") is None  # off unless asked for
    return {str(key): value for key, value in values.items()}


@pytest.fixture(scope="module", params=sorted(EMBEDDED))
def embedded(request: pytest.FixtureRequest) -> tuple[str, TaskData]:
    config = next(path for path in CONFIGS if path.stem == request.param)
    return request.param, load_task(instantiate(arguments(config)).table())


def test_there_are_configs() -> None:
    named = {"aptos2019", "eyepacs", "ham10000", "isic2018", "isic2019"}
    assert {path.stem for path in CONFIGS} >= {*EMBEDDED, *named, "npz", "folder", "csv", "medmnist"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_gives_every_argument_and_some_config_of_its_class_repeats_the_default(config: Path) -> None:
    values = arguments(config)
    target = values.pop("_target_")
    leaf = get_class(target)
    assert issubclass(leaf, TargetData)
    parameters = inspect.signature(leaf).parameters
    assert set(values) == set(parameters)
    alike = [other for other in map(arguments, CONFIGS) if other["_target_"] == target]  # one plain, others of a name
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert default in [other[name] for other in alike], name


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


def test_features_are_told_apart_before_they_are_rounded() -> None:
    table = BreastCancerData().table()
    assert table.keys is not None
    assert not table.repeats
    assert len(set(table.keys)) == 569


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
    again = load_task(instantiate(arguments(next(path for path in CONFIGS if path.stem == name))).table())
    for split in SPLITS:
        assert again.splits[split].ids == data.splits[split].ids
        assert torch.equal(again.splits[split].images, data.splits[split].images)
