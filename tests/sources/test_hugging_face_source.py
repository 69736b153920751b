"""Image classifiers of transformers from local folders, with random weights: nothing is downloaded here."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.hugging_face import hugging_face_source
from reprogram.sources.prepared import PreparedSource

transformers = pytest.importorskip("transformers")

NAMES = {0: "tabby, cat", 1: "tiger", 2: "dog", 3: "fox"}
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
RECORD = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "rescale_factor": 1 / 255,
    "size": {"height": 16, "width": 24},
}


def vit_config() -> Any:
    return transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=(16, 24),
        patch_size=8,
        id2label=NAMES,
        label2id={name: index for index, name in NAMES.items()},
    )


def resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5
    )
    return transformers.ResNetForImageClassification(config)


def stored(folder: Path, model: Any, record: dict[str, Any] | None = None) -> str:
    model.save_pretrained(folder)
    if record is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(record))
    return str(folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return stored(
        tmp_path_factory.mktemp("hub") / "tiny-vit", transformers.ViTForImageClassification(vit_config()), RECORD
    )


@pytest.fixture
def with_record(vit: str, tmp_path: Path) -> Callable[..., str]:
    """The same weights with another record of the image processor; a value of None deletes an entry."""

    def change(**changes: Any) -> str:
        folder = shutil.copytree(vit, tmp_path / "changed", dirs_exist_ok=True)
        record = {key: value for key, value in {**RECORD, **changes}.items() if value is not None}
        (folder / "preprocessor_config.json").write_text(json.dumps(record))
        return str(folder)

    return change


def test_a_folder_gives_the_answers_of_the_network_and_its_facts(vit: str) -> None:
    source = hugging_face_source(vit)
    network = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    images = torch.rand(2, 3, 16, 24)
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(source(images), network(normalised).logits.log_softmax(1))
    assert source.spec.name == "tiny-vit"
    assert source.spec.image_size == (16, 24)
    assert source.spec.class_names == ("tabby, cat", "tiger", "dog", "fox")


def test_an_image_is_seen_as_the_pipeline_of_transformers_sees_it(vit: str) -> None:
    image = (torch.rand(16, 24, 3) * 255).byte()
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    network = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    expected = network(**processor(images=Image.fromarray(image.numpy()), return_tensors="pt")).logits.log_softmax(1)
    found = hugging_face_source(vit)(image.permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"size": 32}, (32, 32)),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "crop_pct": 0.875},
            (28, 28),
        ),
        (
            {
                "image_processor_type": "MobileNetV2ImageProcessor",
                "size": {"shortest_edge": 40},
                "do_center_crop": True,
                "crop_size": {"height": 32, "width": 24},
            },
            (32, 24),
        ),
        (
            {
                "image_processor_type": "BitImageProcessor",
                "do_center_crop": False,
                "crop_size": 9,
                "size": {"shortest_edge": 24},
            },
            (24, 24),
        ),
    ],
)
def test_the_size_is_what_the_image_processor_gives(
    changes: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    folder = stored(tmp_path / "resnet", resnet(), {**RECORD, **changes})
    source = hugging_face_source(folder)
    assert source.spec.image_size == size
    assert source.mean.flatten().tolist() == pytest.approx(MEAN)
    assert source.std.flatten().tolist() == pytest.approx(STD)


def test_without_normalisation_pixels_stay_as_they_are(with_record: Callable[..., str]) -> None:
    source = hugging_face_source(with_record(do_normalize=False))
    assert source.mean.flatten().tolist() == [0, 0, 0]
    assert source.std.flatten().tolist() == [1, 1, 1]
    given = hugging_face_source(with_record(do_normalize=False), mean=[0, 0, 0], std=[1, 1, 1])
    assert given.fingerprint == source.fingerprint


def test_a_processor_that_does_more_than_its_record_says_is_followed(tmp_path: Path) -> None:
    record = {**RECORD, "image_processor_type": "EfficientNetImageProcessor", "include_top": True}
    record["image_std"] = [0.5, 0.4, 0.8]  # divided by twice
    source = hugging_face_source(stored(tmp_path / "net", resnet(), record))
    assert source.std.flatten().tolist() == pytest.approx([0.25, 0.16, 0.64])
    assert source.mean.flatten().tolist() == pytest.approx(MEAN)


def test_a_network_that_expects_blue_first_gets_it(tmp_path: Path) -> None:
    record = {
        "image_processor_type": "MobileViTImageProcessor",
        "do_flip_channel_order": True,
        "size": 24,
        "crop_size": 24,
    }
    network = resnet().eval()
    source = hugging_face_source(stored(tmp_path / "net", network, record))
    images = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(source(images), network(images[:, [2, 1, 0]]).logits.log_softmax(1))
    assert (source(images) - network(images).logits.log_softmax(1)).abs().max() > 1e-3


@pytest.mark.parametrize("changes", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}])
def test_pixels_of_another_scale_need_a_normalisation_by_hand(
    changes: dict[str, Any], with_record: Callable[..., str]
) -> None:
    folder = with_record(**changes)
    got = "1;" if "do_rescale" in changes else "0.00784314;"
    with pytest.raises(ConfigError, match=rf"scales pixels by 1/255, got {got} .*source\.mean=.*source\.std="):
        hugging_face_source(folder)
    assert hugging_face_source(folder, mean=MEAN, std=STD).spec.image_size == (16, 24)


def test_a_processor_that_keeps_any_size_needs_one_by_hand(with_record: Callable[..., str]) -> None:
    folder = with_record(do_resize=False)
    with pytest.raises(ConfigError, match=r"got one that keeps any; set source\.image_size"):
        hugging_face_source(folder)
    assert hugging_face_source(folder, image_size=(16, 24)).spec.image_size == (16, 24)
    folder = with_record(do_resize=False, do_rescale=False)
    with pytest.raises(ConfigError, match=r"keeps any; set source\.image_size"):
        hugging_face_source(folder, mean=MEAN, std=STD)


def test_without_a_record_all_is_given_by_hand(tmp_path: Path) -> None:
    folder = stored(tmp_path / "net", resnet())
    with pytest.raises(
        ConfigError, match=r"preprocessor_config\.json.*source\.image_size=.*source\.mean and source\.std"
    ):
        hugging_face_source(folder)
    source = hugging_face_source(folder, image_size=(20, 16), mean=MEAN, std=STD, class_names=list("abcde"))
    assert source.spec.class_names == tuple("abcde")
    with pytest.raises(SourceError, match="expected 2 outputs, one for each class name, got 5"):
        hugging_face_source(folder, image_size=(20, 16), mean=MEAN, std=STD, class_names=["a", "b"])


def test_a_size_that_the_network_refuses_names_the_key(vit: str) -> None:
    with pytest.raises(SourceError, match=r"cannot score an image of 24x24 pixels .* set source\.image_size"):
        hugging_face_source(vit, image_size=(24, 24))


def test_weights_run_as_float32_and_are_prepared(tmp_path: Path) -> None:
    network = resnet().eval()
    source = hugging_face_source(stored(tmp_path / "net", network.half(), {**RECORD, "size": 32}))
    assert {tensor.dtype for tensor in source.state_dict().values()} == {torch.float32, torch.int64}
    before, images = source.fingerprint, torch.rand(2, 3, 32, 32)
    answers = source(images)
    prepared = PreparedSource(source, "float32")
    assert prepared.preparation.folded == sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 6
    torch.testing.assert_close(prepared(images), answers, atol=1e-4, rtol=0)
    assert prepared.fingerprint == before
    assert hugging_face_source(str(tmp_path / "net")).fingerprint == before


def test_a_classifier_that_would_be_random_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = stored(tmp_path / "headless", transformers.ViTModel(vit_config()), RECORD)
    transformers.logging.set_verbosity_warning()
    transformers.logging.add_handler(caplog.handler)
    try:
        with pytest.raises(
            SourceError, match=r"got none for classifier\.bias, classifier\.weight, which would be random"
        ):
            hugging_face_source(folder)
    finally:
        transformers.logging.remove_handler(caplog.handler)
    assert not caplog.messages
    assert transformers.logging.get_verbosity() == logging.WARNING


def test_weights_that_do_not_fit_are_refused(vit: str, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "wider")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(SourceError, match=r"wider: expected a model .* got none that can be loaded"):
        hugging_face_source(str(folder))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(SourceError, match="got none that can be loaded"):
        hugging_face_source(str(folder))


@pytest.mark.parametrize(
    ("config", "got"),
    [
        ({"model_type": "bert"}, "a bert model"),
        ({"model_type": "imagegpt"}, "which takes input_ids"),
        ({"model_type": "of_the_future"}, "of_the_future.*never run"),
        ({"model_type": "of_the_hub", "auto_map": {"AutoConfig": "code.Config"}}, "never run"),
    ],
)
def test_what_is_no_classifier_of_pixels_is_refused(config: dict[str, Any], got: str, tmp_path: Path) -> None:
    if config["model_type"] == "imagegpt":
        small = transformers.ImageGPTConfig(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=4)
        stored(tmp_path, transformers.ImageGPTForImageClassification(small))
    else:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "code.py").write_text("raise SystemExit('code from the hub was run')")
    with pytest.raises(ConfigError, match=rf"source\.name: expected .*classifier.*{got}"):
        hugging_face_source(str(tmp_path))


def test_a_missing_model_names_the_remedy(tmp_path: Path) -> None:
    for folder in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(
            SourceError, match=r"config\.json, model\.safetensors and preprocessor_config\.json .*FOLDER"
        ):
            hugging_face_source(folder)


def test_a_name_on_the_hub_is_asked_for_by_its_revision(vit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    for loader in ("AutoConfig", "AutoModelForImageClassification", "AutoImageProcessor"):
        original = getattr(transformers, loader).from_pretrained

        def load(name: str, _original: Any = original, **options: Any) -> Any:
            asked.append((name, {key: options[key] for key in ("revision", "trust_remote_code")}))
            return _original(vit, **{**options, "revision": None})

        monkeypatch.setattr(getattr(transformers, loader), "from_pretrained", load)
    assert hugging_face_source("somebody/tiny-vit", revision="v2").spec.name == "somebody/tiny-vit"
    assert asked == [("somebody/tiny-vit", {"revision": "v2", "trust_remote_code": False})] * 3


def test_a_failed_download_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nCheck your internet connection")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(SourceError, match=r"somebody/net: .*couldn't connect to .*source\.name=FOLDER"):
        hugging_face_source("somebody/net")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'reprogram\[huggingface\]'"):
        hugging_face_source("microsoft/resnet-18")
