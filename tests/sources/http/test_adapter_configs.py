"""The configs of services behind HTTP: each shows what all share and every argument of its adapter."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from reprogram import build
from reprogram.commands.launch import config_folder
from reprogram.errors import ConfigError
from reprogram.instantiation import call, locate
from reprogram.sources.http.adapter import Adapter

SHARED = Path(config_folder()) / "source" / "_http.yaml"
SERVICES = sorted(path.stem for path in SHARED.parent.glob("http*.yaml"))
NEEDED = {  # what a user must say
    "http": {"model": "m"},
    "http_custom_vision": {"project": "p", "iteration": "i"},
    "http_clarifai": {"user": "u", "app": "a", "model": "m"},
}


def composed(service: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = build.plain(compose("train", [f"source={service}", "source.url=https://localhost", *overrides]))
    found: dict[str, Any] = cfg["source"]
    return found


def test_there_is_a_config_for_every_adapter() -> None:
    found = {composed(service)["adapter"]["_target_"].rpartition(".")[2] for service in SERVICES}
    assert found == {"OpenInference", "HuggingFaceApi", "CustomVision", "Clarifai", "JsonApi"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_what_all_share(service: str) -> None:
    assert composed(service).keys() == OmegaConf.load(SHARED).keys() | {"adapter"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_argument_of_an_adapter_is_shown_with_its_default(service: str) -> None:
    values = composed(service)["adapter"]
    parameters = inspect.signature(locate(values, "source.adapter")).parameters
    assert parameters.keys() == values.keys() - {"_target_"}
    for name, parameter in parameters.items():
        default = parameter.default
        if default is inspect.Parameter.empty:
            assert values[name] == "???"
        else:
            expected = list(default) if isinstance(default, tuple) else default
            assert values[name] == ({} if expected is None and isinstance(values[name], Mapping) else expected), name


@pytest.mark.parametrize("service", SERVICES)
def test_an_adapter_is_made_from_its_block(service: str) -> None:
    values, needed = composed(service)["adapter"], NEEDED.get(service, {})
    assert isinstance(call(values | needed, "source.adapter"), Adapter)
    for name in needed:
        with pytest.raises(ConfigError, match=rf"source\.adapter\.{name}: is required"):
            call(values | {key: value for key, value in needed.items() if key != name}, "source.adapter")


@pytest.mark.parametrize(
    ("overrides", "encoding", "quality"),
    [
        (["access=black_box", "access.encoding=jpeg", "access.jpeg_quality=70", "estimator=two_sided"], "jpeg", 70),
        (["access=white_box"], "png", 90),
    ],
)
def test_images_are_sent_as_access_says(overrides: list[str], encoding: str, quality: int) -> None:
    found = composed("http", *overrides)
    assert (found["encoding"], found["jpeg_quality"]) == (encoding, quality)
