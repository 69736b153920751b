"""Networks of the user's own, by import path."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.module import module_source

CODE = """
import torch
from torch import nn

def tiny(width=4, classes=5):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, classes))

class Net(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))

def number():
    return 3

def broken():
    import a_package_that_is_not_there
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_own_networks.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_function_and_a_class_are_called() -> None:
    source = module_source("users_own_networks.tiny", (8, 8), kwargs={"classes": 7})
    assert source.spec.num_classes == 7
    assert source.spec.name == "users_own_networks.tiny"
    named = module_source("users_own_networks.Net", [8, 8], class_names=["r", "g", "b"], name="mine")
    assert named.spec.class_names == ("r", "g", "b")
    assert named.spec.name == "mine"


def test_the_normalisation_is_of_imagenet_unless_given() -> None:
    images = torch.rand(2, 3, 8, 8)
    means = images.mean((2, 3))
    imagenet = (means - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(module_source("users_own_networks.Net", (8, 8))(images), imagenet.log_softmax(1))
    own = module_source("users_own_networks.Net", (8, 8), mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(own(images), means.log_softmax(1))


def test_a_local_file_is_loaded(tmp_path: Path) -> None:
    state = module_source("users_own_networks.tiny", (8, 8)).network.state_dict()
    save_file(state, tmp_path / "tiny.safetensors")
    path = str(tmp_path / "tiny.safetensors")
    loaded = module_source("users_own_networks.tiny", (8, 8), weights=path).network.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    with pytest.raises(SourceError, match=r"users_own_networks\.tiny: the weights in .* do not fit"):
        module_source("users_own_networks.tiny", (8, 8), kwargs={"width": 6}, weights=path)


@pytest.mark.parametrize("target", ["no_such_package.f", "users_own_networks.f", "tiny", "", "users_own_networks."])
def test_a_target_that_cannot_be_imported_says_what_is_expected(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"source\.target: cannot import '{target}'.*package\.module\.function"):
        module_source(target, (8, 8))


def test_wrong_kwargs_are_named() -> None:
    with pytest.raises(ConfigError, match=r"source\.kwargs: users_own_networks\.tiny does not take .*'depth'"):
        module_source("users_own_networks.tiny", (8, 8), kwargs={"depth": 3})


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"users_own_networks\.number to return an nn\.Module, got int"):
        module_source("users_own_networks.number", (8, 8))


def test_an_error_inside_the_users_code_is_left_to_the_user() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        module_source("users_own_networks.broken", (8, 8))


def test_a_size_the_network_cannot_score_is_refused() -> None:
    with pytest.raises(SourceError, match=r"cannot score an image of 2x2.*source\.image_size"):
        module_source("users_own_networks.tiny", (2, 2))
