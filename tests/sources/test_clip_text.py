"""Text features of class names, and how a CLIP is found; with random weights: nothing is downloaded here."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import CONFIG, save_clip

from reprogram.errors import ConfigError, SourceError
from reprogram.sources import clip_text
from reprogram.sources.clip_text import class_features, expect_templates, load_clip, text_features

open_clip = pytest.importorskip("open_clip")

NAMES = ("tabby_cat", "dog", "fire truck")
TEMPLATES = ("a photo of a {}.", "{}", "art of the {} {or not}.")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return open_clip.CLIP(**CONFIG)


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return save_clip(model, tmp_path_factory.mktemp("clip"))


def encoded(model: Any, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_text(open_clip.tokenize(texts, context_length=16), normalize=True)


def test_text_features_are_those_of_the_model(model: Any, files: tuple[str, str]) -> None:
    texts = [f"a photo of {count} birds" for count in range(70)]  # more than are asked at once
    found = text_features(load_clip(*files), texts)
    assert (found.shape, found.dtype) == ((70, 16), torch.float64)
    torch.testing.assert_close(found.float(), encoded(model, texts), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(70).double())


def test_a_class_is_the_mean_direction_of_its_prompts(model: Any, files: tuple[str, str]) -> None:
    found = class_features(load_clip(*files), NAMES, TEMPLATES)
    prompts = [
        ["a photo of a tabby cat.", "tabby cat", "art of the tabby cat {or not}."],
        ["a photo of a dog.", "dog", "art of the dog {or not}."],
        ["a photo of a fire truck.", "fire truck", "art of the fire truck {or not}."],
    ]
    means = torch.stack([encoded(model, texts).mean(0) for texts in prompts])
    torch.testing.assert_close(found.float(), means / means.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)


def test_features_do_not_depend_on_how_the_sums_are_added_up(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_clip(*files)
    together = class_features(clip, NAMES, TEMPLATES)
    monkeypatch.setattr(clip_text, "TEXTS_AT_ONCE", 1)  # other shapes, other kernels
    assert torch.equal(class_features(clip, NAMES, TEMPLATES), together)
    assert torch.equal((together * 2**22).round(), together * 2**22)


@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_files_of_pytorch_are_read_too(suffix: str, model: Any, files: tuple[str, str], tmp_path: Path) -> None:
    torch.save({"state_dict": model.state_dict()}, tmp_path / f"clip.{suffix}")
    clip = load_clip(files[0], str(tmp_path / f"clip.{suffix}"))
    assert torch.equal(clip.logit_scale.float(), model.logit_scale.detach())


def test_the_layout_of_a_hub_repository_is_read_with_its_normalisation(files: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "open_clip_config.json"
    record = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    path.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": record}))
    clip = load_clip(str(path), files[1])
    assert (clip.mean, clip.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert load_clip(*files).mean == open_clip.OPENAI_DATASET_MEAN


def test_open_clip_neither_speaks_nor_configures_the_root_logger(
    files: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    before = list(root.handlers), list(root.filters)
    with caplog.at_level(logging.DEBUG):
        load_clip(*files)
    assert not caplog.records
    assert (list(root.handlers), list(root.filters)) == before


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"], ["a photo of a {}.", "of {0}"]])
def test_templates_without_one_place_are_refused(templates: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"source\.templates: expected texts with one \{\} each"):
        expect_templates(templates, "source")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match=r"mapping: expected the package open_clip.*pip install 'reprogram\[clip\]'"):
        load_clip("ViT-B-32", "openai", "mapping")


def test_unknown_names_and_tags_get_near_matches(files: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"source\.name: open_clip has no model named 'ViT-B-23'; near: .*ViT-B-32"):
        load_clip("ViT-B-23", "openai")
    with pytest.raises(ConfigError, match=r"mapping\.weights: .*'open_ai', which is neither; tags: openai"):
        load_clip("ViT-B/32", "open_ai", "mapping")
    with pytest.raises(ConfigError, match=r"source\.weights: .*'no/file\.pt', which is neither; tags: openai"):
        load_clip("ViT-B-32", "no/file.pt")
    with pytest.raises(ConfigError, match=r"tags: none"):
        load_clip(files[0], "openai")


def test_configurations_that_cannot_work_are_refused(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source\.name: expected a model configuration in JSON at .*none\.json"):
        load_clip(str(tmp_path / "none.json"), files[1])
    for text in ("{", "3"):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(ConfigError, match=r"source\.name: expected a model configuration in JSON"):
            load_clip(str(tmp_path / "broken.json"), files[1])
    (tmp_path / "odd.json").write_text(json.dumps({**CONFIG, "colour": "red"}))
    with pytest.raises(ConfigError, match=r"mapping\.name: open_clip cannot build '.*odd\.json': .*colour"):
        load_clip(str(tmp_path / "odd.json"), files[1], "mapping")


def test_weights_of_another_model_are_refused(model: Any, files: tuple[str, str], tmp_path: Path) -> None:
    state = model.state_dict()
    save_file({key: value for key, value in state.items() if key != "logit_scale"}, tmp_path / "part.safetensors")
    with pytest.raises(SourceError, match=r"(?s)do not fit the network.*logit_scale"):
        load_clip(files[0], str(tmp_path / "part.safetensors"))
    (tmp_path / "page.safetensors").write_text("<html>404 Not Found</html>")
    with pytest.raises(SourceError, match="cannot read weights"):
        load_clip(files[0], str(tmp_path / "page.safetensors"))


@pytest.fixture
def asked(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What open_clip is asked for, instead of a download: it answers with the small model."""
    calls: list[tuple[Any, ...]] = []

    def create(name: str, pretrained: str | None = None, **options: Any) -> Any:
        calls.append((name, pretrained, options.get("force_quick_gelu", False)))
        answer = open_clip.CLIP(**CONFIG)
        answer.load_state_dict(model.state_dict())
        answer.visual.preprocess_cfg = {"mean": [0.1] * 3, "std": [0.2] * 3}
        return answer

    monkeypatch.setattr(open_clip, "create_model", create)
    return calls


def test_published_weights_get_the_activation_they_were_trained_with(asked: list[tuple[Any, ...]]) -> None:
    for tag in ("openai", "laion2b_s34b_b79k"):
        load_clip("ViT-B/32", tag)
    assert asked == [("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", False)]


def test_a_local_copy_is_normalised_as_published(asked: list[tuple[Any, ...]], files: tuple[str, str]) -> None:
    assert load_clip("MobileCLIP-S1", files[1]).mean == (0.0, 0.0, 0.0)
    published = {tuple(open_clip.get_pretrained_cfg("ViT-L-14", tag)["mean"]) for tag in ("openai", "dfn2b")}
    assert len(published) == 1
    assert load_clip("ViT-M-32", files[1]).mean == (0.1, 0.1, 0.1)  # nothing is published under this name
    assert asked == [("MobileCLIP-S1", None, False), ("ViT-M-32", None, False)]


def test_a_failed_download_names_file_folder_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Temporary failure in name resolution")

    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(SourceError, match=r"neither cached nor downloadable.*name resolution") as caught:
        load_clip("ViT-B-32", "openai")
    message = str(caught.value)
    assert "open_clip_model.safetensors of the hub repository timm/vit_base_patch32_clip_224.openai anywhere" in message
    assert "source.weights=FILE with source.name=ViT-B-32-quickgelu" in message
    assert str(HF_HUB_CACHE) in message
    with pytest.raises(
        SourceError, match=r"repository microsoft/Bio anywhere .* mapping\.name=FOLDER/open_clip_config\.json"
    ):
        load_clip("hf-hub:microsoft/Bio", "pretrained", "mapping")


def test_a_tokenizer_that_cannot_be_had_is_named(asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(SourceError, match="ViT-B-16-SigLIP: its tokenizer is neither cached nor downloadable"):
        load_clip("ViT-B-16-SigLIP", "webli")
