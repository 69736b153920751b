"""Zero-shot classifiers from CLIP, with random weights: nothing is downloaded here."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import CONFIG, TEXT, VISION

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.features import final_layer, penultimate
from reprogram.sources.network import NetworkSource
from reprogram.sources.open_clip import CosineLayer, open_clip_source
from reprogram.sources.prepared import PreparedSource

open_clip = pytest.importorskip("open_clip")

CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": CONFIG,
    "resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "head_width": 32},
        "text_cfg": TEXT,
    },
    "timm": {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160},
        "text_cfg": TEXT,
        "custom_text": True,
        "init_logit_bias": -10,
        "nonscalar_logit_scale": True,
    },
    "coca": {
        "embed_dim": 16,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 15, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 15, "width": 32, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}
NAMES = ["cat", "fire_truck", "bird"]
PROMPTS = ["a photo of a cat.", "a photo of a fire truck.", "a photo of a bird."]


class Made:
    """A model with random weights, and the files a user would have of it."""

    def __init__(self, kind: str, folder: Path) -> None:
        torch.manual_seed(0)
        self.config = CONFIGS[kind]
        arguments = {key: value for key, value in self.config.items() if key != "custom_text"}
        kinds = {"timm": open_clip.CustomTextCLIP, "coca": open_clip.CoCa}
        self.model = kinds.get(kind, open_clip.CLIP)(**arguments)
        for norm in (layer for layer in self.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(norm.weight)  # some are zero
            torch.nn.init.uniform_(norm.running_var, 0.5, 1)
        self.model.train(False)
        self.name, self.weights = str(folder / f"{kind}.json"), str(folder / f"{kind}.safetensors")
        Path(self.name).write_text(json.dumps(self.config))
        save_file(self.model.state_dict(), self.weights)

    def source(self, **changes: Any) -> NetworkSource:
        return open_clip_source(self.name, self.weights, **{"class_names": NAMES, **changes})

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
        with torch.no_grad():
            return self.model.encode_image((images - mean.view(3, 1, 1)) / std.view(3, 1, 1), normalize=True)

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = open_clip.tokenize(list(texts), context_length=self.config["text_cfg"]["context_length"])
        with torch.no_grad():
            return self.model.encode_text(tokens, normalize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Made:
    return Made("transformer", folder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_log_probabilities_are_those_of_the_whole_model(kind: str, folder: Path) -> None:
    if kind == "timm":
        pytest.importorskip("timm")
    made = Made(kind, folder)
    source = made.source()
    images = torch.rand(4, 3, *source.spec.image_size)
    cosines = made.image_features(images) @ made.text_features(PROMPTS).T
    expected = (made.model.logit_scale.exp() * cosines).log_softmax(1).detach()
    torch.testing.assert_close(source(images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(PreparedSource(source, "float32")(images), expected, atol=1e-4, rtol=0)


def test_logits_are_those_of_the_whole_model(tiny: Made) -> None:
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        image, text, scale = tiny.model(images, open_clip.tokenize(PROMPTS, context_length=16))
        found = tiny.source().network(images)
    torch.testing.assert_close(found, scale * image @ text.T, atol=1e-5, rtol=0)


def test_the_head_is_the_final_layer_and_sees_the_image_features(tiny: Made) -> None:
    source = tiny.source()
    name, layer = final_layer(source)
    assert (name, layer.in_features, layer.out_features) == ("head", 16, 3)
    assert source.spec.feature_dim == 16
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(penultimate(source, images), tiny.image_features(images), atol=1e-5, rtol=0)


def test_templates_are_averaged_as_directions(tiny: Made) -> None:
    source = tiny.source(templates=["{}", "no {}!"], class_names=["cat", "dog"])
    images = torch.rand(2, 3, 32, 32)
    mean = tiny.text_features(["cat", "dog"]) + tiny.text_features(["no cat!", "no dog!"])
    cosines = tiny.image_features(images) @ (mean / mean.norm(dim=1, keepdim=True)).T
    expected = (tiny.model.logit_scale.exp() * cosines).log_softmax(1).detach()
    torch.testing.assert_close(source(images), expected, atol=1e-5, rtol=0)


def test_only_the_image_tower_and_the_head_are_kept(tiny: Made) -> None:
    state = tiny.source().network.state_dict()
    assert set(state) == {f"visual.{key}" for key in tiny.model.visual.state_dict()} | {"head.weight"}
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_class_names_are_of_the_task_of_imagenet_or_given(tiny: Made) -> None:
    assert tiny.source().spec.class_names == tuple(NAMES)
    task = tiny.source(class_names="target", task_class_names=("benign", "malignant"))
    assert task.spec.class_names == ("benign", "malignant")
    imagenet = tiny.source(class_names="imagenet", task_class_names=("benign", "malignant"))
    assert imagenet.spec.num_classes == 1000
    assert (imagenet.spec.class_names[0], imagenet.spec.class_names[999]) == ("tench", "toilet tissue")
    with pytest.raises(ConfigError, match=r"source\.class_names: 'target' needs a task"):
        tiny.source(class_names="target")
    for wrong in ("imagnet", []):
        with pytest.raises(ConfigError, match=r"source\.class_names: expected target, imagenet or a list of names"):
            tiny.source(class_names=wrong)


def test_the_facts_are_the_models_own_unless_others_are_given(tiny: Made) -> None:
    own = tiny.source()
    assert (own.spec.name, own.spec.image_size) == ("transformer", (32, 32))
    assert own.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert own.std.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_STD)
    other = tiny.source(mean=[0.5] * 3, std=[0.25] * 3)
    assert (other.mean.flatten().tolist(), other.std.flatten().tolist()) == ([0.5] * 3, [0.25] * 3)


def test_the_fingerprint_knows_the_prompts(tiny: Made) -> None:
    own = tiny.source().fingerprint
    assert tiny.source().fingerprint == own
    assert tiny.source(class_names=["cat", "fire truck", "bird"]).fingerprint == own  # the same prompts
    assert tiny.source(class_names=["cat", "truck", "bird"]).fingerprint != own
    assert tiny.source(templates=["{}"]).fingerprint != own


def test_position_embeddings_are_interpolated_to_another_size(tiny: Made) -> None:
    whole = tiny.source().network.state_dict()["visual.positional_embedding"]
    wide = tiny.source(image_size=(32, 64))
    assert wide(torch.rand(2, 3, 32, 64)).shape == (2, 3)
    found = wide.network.state_dict()["visual.positional_embedding"]
    assert torch.equal(found[0], whole[0])  # of the class token
    grid = torch.nn.functional.interpolate(
        whole[1:].view(2, 2, 32).permute(2, 0, 1)[None], size=(2, 4), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(found[1:].view(2, 4, 32), grid[0].permute(1, 2, 0))
    tall = tiny.source(image_size=(64, 16))  # as many places as before
    assert not torch.equal(tall.network.state_dict()["visual.positional_embedding"], whole)
    with pytest.raises(ConfigError, match=r"source\.image_size: .* at least \[16, 16\] pixels, got \[32, 8\]"):
        tiny.source(image_size=(32, 8))


def test_other_towers_take_another_size_or_say_that_they_cannot(folder: Path) -> None:
    pytest.importorskip("timm")
    small = Made("timm", folder).source(image_size=(64, 96))
    assert small(torch.rand(2, 3, 64, 96)).shape == (2, 3)
    with pytest.raises(SourceError, match=r"cannot score an image of 96x96 pixels.*source\.image_size"):
        Made("resnet", folder).source(image_size=(96, 96))


def test_a_prepared_resnet_has_its_norms_folded(folder: Path) -> None:
    source = Made("resnet", folder).source()
    norms = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in source.modules())
    assert PreparedSource(source, "float32").preparation.folded == norms > 10


@pytest.mark.parametrize("kind", ["transformer", "resnet"])
def test_a_source_in_bfloat16_answers_nearly_the_same_and_passes_a_gradient(kind: str, folder: Path) -> None:
    prepared = PreparedSource(Made(kind, folder).source(), "bfloat16")
    assert prepared.preparation.max_difference < 0.1
    images = torch.rand(2, 3, *prepared.spec.image_size).requires_grad_()
    prepared(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_the_head_tells_near_logits_apart_in_bfloat16() -> None:
    head = CosineLayer(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[25.0, 0.0], [25.0, 0.0625]]))
    features = torch.ones(1, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.to(torch.bfloat16)(features)
    assert found.dtype == torch.float32
    assert found.tolist() == [[25.0, 25.0625]]  # the nearest numbers in bfloat16 are 25.0 and 25.125


def test_a_source_works_in_float64(tiny: Made) -> None:
    source = tiny.source()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = source(images.float())
    found = source.double()(images)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=0)


def test_wrong_templates_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"source\.templates"):
        open_clip_source("ViT-B-32", class_names=NAMES, templates=["a photo"])


def test_weights_of_another_model_are_refused(tiny: Made, folder: Path) -> None:
    with pytest.raises(SourceError, match="do not fit the network"):
        open_clip_source(Made("resnet", folder).name, tiny.weights, class_names=NAMES)


def test_the_scale_of_the_model_is_used(tiny: Made, tmp_path: Path) -> None:
    state = {**tiny.model.state_dict(), "logit_scale": torch.tensor(math.log(100.0))}
    save_file(state, tmp_path / "sharp.safetensors")
    sharp = open_clip_source(tiny.name, str(tmp_path / "sharp.safetensors"), class_names=NAMES)
    lengths = sharp.network.get_submodule("head").weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 100.0), atol=1e-3, rtol=0)
