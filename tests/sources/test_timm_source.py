"""timm classifiers by name, with random weights: nothing is downloaded here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.timm import timm_source

timm = pytest.importorskip("timm")

NAME = "test_efficientnet"  # 0.4 M parameters, made for tests
SIZE = (48, 32)


def save(path: Path, name: str = NAME, **kwargs: object) -> str:
    save_file(timm.create_model(name, **kwargs).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def test_a_local_file_gives_the_answers_of_the_network(weights: str) -> None:
    source = timm_source(NAME, weights, image_size=SIZE, mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3])
    network = timm.create_model(NAME)
    network.load_state_dict(source.network.state_dict())
    images = torch.rand(2, 3, *SIZE)
    normalised = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(source(images), network.eval()(normalised).log_softmax(1))


def test_the_facts_come_from_the_record_of_timm(weights: str) -> None:
    source = timm_source(NAME, weights)
    record = timm.create_model(NAME).pretrained_cfg
    assert source.spec.image_size == tuple(record["input_size"][1:])
    assert source.mean.flatten().tolist() == pytest.approx(record["mean"])
    assert source.std.flatten().tolist() == pytest.approx(record["std"])
    assert source.spec.feature_dim == timm.create_model(NAME).num_features
    assert (source.spec.class_names[0], source.spec.class_names[999]) == ("tench", "toilet tissue")


def test_kwargs_reach_the_network(tmp_path: Path) -> None:
    path = save(tmp_path / "seven.safetensors", num_classes=7)
    source = timm_source(NAME, path, kwargs={"num_classes": 7}, image_size=SIZE)
    assert source.spec.class_names == tuple(f"class_{index}" for index in range(7))
    with pytest.raises(ConfigError, match=rf"source\.kwargs: {NAME} does not take .*'colour'"):
        timm_source(NAME, path, kwargs={"colour": "red"})


def test_class_names_of_ones_own_set_the_width_of_the_head(tmp_path: Path) -> None:
    path = save(tmp_path / "two.safetensors", num_classes=2)
    assert timm_source(NAME, path, image_size=SIZE, class_names=["a", "b"]).spec.class_names == ("a", "b")


def test_a_wrong_number_of_class_names_is_refused(weights: str) -> None:
    with pytest.raises(SourceError, match="do not fit the network"):
        timm_source(NAME, weights, image_size=SIZE, class_names=["a", "b"])


def test_an_unknown_network_gets_a_near_match() -> None:
    with pytest.raises(ConfigError, match=r"source\.name: timm has no model named 'mobilenetv2_1000'; near: .*v2_"):
        timm_source("mobilenetv2_1000")


def test_a_mistyped_network_gets_a_near_match() -> None:
    with pytest.raises(ConfigError, match=r"near: .*mobilenetv2_100"):
        timm_source("mobilnetv2_100")


def test_missing_and_foreign_files_are_refused(weights: str) -> None:
    with pytest.raises(SourceError, match=r"expected a weights file at nowhere\.safetensors.*source\.weights"):
        timm_source(NAME, "nowhere.safetensors")
    with pytest.raises(SourceError, match=r"test_resnet: the weights in .* do not fit the network"):
        timm_source("test_resnet", weights)


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch) -> str:
    create = timm.create_model

    def fail(name: str, pretrained: bool = False, **kwargs: object) -> object:
        if pretrained:
            raise OSError("Temporary failure in name resolution")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(SourceError, match="neither cached nor downloadable") as caught:
        timm_source(NAME)
    return str(caught.value)


def test_a_failed_download_names_the_key(failure: str) -> None:
    assert "source.weights=FILE" in failure
    assert "name resolution" in failure


def test_a_failed_download_names_file_and_folder(failure: str) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    assert "timm/test_efficientnet.r160_in1k" in failure
    assert str(HF_HUB_CACHE) in failure


def test_a_network_of_another_size_names_the_key(tmp_path: Path) -> None:
    path = save(tmp_path / "vit.safetensors", "test_vit")
    assert timm_source("test_vit", path).spec.image_size == (160, 160)


@pytest.mark.slow
def test_mobilenet_v2_of_the_assets_is_prepared_completely(assets: Path) -> None:
    from reprogram.sources.prepared import PreparedSource

    path = str(assets / "weights" / "mobilenetv2_100_tf_same.timm.safetensors")

    def load(mean: float) -> PreparedSource:
        options = {"kwargs": {"pad_type": "same"}, "mean": [mean] * 3, "std": [0.5] * 3}
        return PreparedSource(timm_source("mobilenetv2_100", path, **options), "float32")

    one, same, other = load(0.5), load(0.5), load(0.4)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert one.preparation.folded == 52
    assert one.preparation.max_difference < 1e-3
    assert one.preparation.agreement == 1
    images = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(one(images), same(images))
