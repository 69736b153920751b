"""torchvision classifiers by name, with random weights: nothing is downloaded here."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.torchvision import torchvision_source

NAME = "squeezenet1_1"
SIZE = (48, 32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(torchvision.models.get_model(NAME).state_dict(), path)
    return str(path)


def test_a_local_file_gives_the_answers_of_the_network(weights: str) -> None:
    source = torchvision_source(NAME, weights, image_size=SIZE)
    network = torchvision.models.get_model(NAME)
    network.load_state_dict(source.network.state_dict())
    images = torch.rand(2, 3, *SIZE)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    expected = network.eval()(normalised).log_softmax(1)
    torch.testing.assert_close(source(images), expected)


def test_the_published_facts_are_taken_unless_others_are_given(weights: str) -> None:
    published = torchvision_source(NAME, weights).spec
    assert published.image_size == (224, 224)
    assert published.num_classes == 1000
    assert (published.class_names[0], published.class_names[999]) == ("tench", "toilet tissue")
    own = torchvision_source(NAME, weights, image_size=SIZE, mean=[0.5] * 3, std=[0.25] * 3)
    assert own.spec.image_size == SIZE
    assert own.mean.flatten().tolist() == [0.5] * 3
    assert own.std.flatten().tolist() == [0.25] * 3


def test_class_names_of_ones_own_set_the_width_of_the_head(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(torchvision.models.get_model(NAME, num_classes=3).state_dict(), path)
    source = torchvision_source(NAME, str(path), image_size=SIZE, class_names=["a", "b", "c"])
    assert source.spec.class_names == ("a", "b", "c")
    assert source(torch.rand(2, 3, *SIZE)).shape == (2, 3)
    with pytest.raises(SourceError, match="do not fit the network"):
        torchvision_source(NAME, str(path), image_size=SIZE)


@pytest.mark.parametrize("name", ["resnet19", "mobilnet_v2"])
def test_an_unknown_network_gets_the_near_match(name: str) -> None:
    near = {"resnet19": "resnet1", "mobilnet_v2": "mobilenet_v2"}[name]
    with pytest.raises(ConfigError, match=rf"source\.name: there is no torchvision classifier named '{name}'.*{near}"):
        torchvision_source(name)


def test_a_network_that_is_no_classifier_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"source\.name"):
        torchvision_source("fcn_resnet50")


def test_an_unknown_weights_name_gets_the_near_match() -> None:
    with pytest.raises(ConfigError, match=r"source\.weights: there is no weights of resnet50.*IMAGENET1K_V"):
        torchvision_source("resnet50", "IMAGENET1K_V3")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SourceError, match=r"resnet18: expected a weights file at nowhere/r18\.pth.*source\.weights"):
        torchvision_source("resnet18", "nowhere/r18.pth")


def test_weights_of_another_network_are_refused(weights: str) -> None:
    with pytest.raises(SourceError, match=r"squeezenet1_0: the weights in .* do not fit the network"):
        torchvision_source("squeezenet1_0", weights, image_size=SIZE)


@pytest.mark.parametrize(
    "error", [URLError("Temporary failure in name resolution"), RuntimeError('invalid hash value (expected "b8a52d")')]
)
def test_a_failed_download_names_file_folder_and_key(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.models, "get_model", fail)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(SourceError, match="neither cached nor downloadable") as caught:
        torchvision_source(NAME)
    message = str(caught.value)
    assert "squeezenet1_1-b8a52dc0.pth" in message
    assert f"{tmp_path}/checkpoints/" in message
    assert "source.weights=FILE" in message
    assert str(error) in message


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        "googlenet",
    ],
)
def test_the_published_file_given_by_hand_gives_the_answers_of_the_published_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, **options).train()
    for norm in (layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    network(torch.rand(8, 3, 64, 64))  # statistics that let the image through
    state = network.state_dict()  # as the published file: with auxiliary heads
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, *_, **__: state)
    published = torchvision_source(name, "DEFAULT", image_size=(64, 64))
    save_file(state, tmp_path / "published.safetensors")
    by_hand = torchvision_source(name, str(tmp_path / "published.safetensors"), image_size=(64, 64))
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(by_hand(images), published(images))
