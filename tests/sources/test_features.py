"""Penultimate features: the input of the layer that decides, whatever the network around it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reprogram.errors import SourceError
from reprogram.sources.black_box import BlackBox
from reprogram.sources.embedded import embedded_source
from reprogram.sources.features import final_layer, penultimate
from reprogram.sources.ledger import Ledger
from reprogram.sources.module import module_source
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource
from reprogram.sources.timm import timm_source
from reprogram.sources.torchvision import torchvision_source

HALF = (0.5, 0.5, 0.5)


def source(*layers: nn.Module) -> NetworkSource:
    return NetworkSource("toy", nn.Sequential(*layers), (6, 6), HALF, HALF)


def test_features_are_the_input_of_the_last_linear_layer() -> None:
    made, images = embedded_source(), torch.rand(3, 3, 64, 64)
    name, layer = final_layer(made)
    assert (name, layer) == ("classifier", made.network.classifier)
    features = penultimate(made, images)
    network = made.network
    with torch.no_grad():
        inner = network.pool(network.head(network.blocks(network.stem((images - made.mean) / made.std)))).flatten(1)
    assert torch.equal(features, inner)
    assert features.shape == (3, made.spec.feature_dim)
    assert not layer._forward_pre_hooks


def test_an_auxiliary_classifier_before_it_is_not_meant() -> None:
    hidden = nn.Linear(5, 4)
    made = source(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), hidden, nn.ReLU(), nn.Linear(4, 4))
    images = torch.rand(2, 3, 6, 6)
    assert final_layer(made)[0] == "5"
    torch.testing.assert_close(penultimate(made, images), made.network[:5]((images - 0.5) / 0.5))


def test_of_a_final_convolution_it_is_the_mean_over_the_positions() -> None:
    made = source(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(penultimate(made, images), made.network[:2]((images - 0.5) / 0.5).mean((2, 3)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_prepared_source_gives_the_same_features(precision: str) -> None:
    images = torch.rand(4, 3, 64, 64)
    exact = penultimate(embedded_source(), images)
    found = penultimate(PreparedSource(embedded_source(), precision), images)
    assert found.dtype == torch.float32
    tolerance = 1e-5 if precision == "float32" else 0.05
    assert (found - exact).norm() <= tolerance * exact.norm()


class Twice(nn.Module):
    """Decides by both halves of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[..., :3].mean((2, 3))) + self.head(x[..., 3:].mean((2, 3)))


class Tokens(nn.Module):
    """Scores every position, then averages."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(2).transpose(1, 2)).mean(1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), "a linear layer or 1x1 convolution with 12 outputs"),
        (nn.Sequential(nn.Conv2d(3, 5, 6), nn.Flatten()), "with 5 outputs, one for each class, got none"),
        (Twice(), r"head' to be asked once, for \[2, F\] .* got \[\[2, 3\], \[2, 3\]\]"),
        (Tokens(), r"head' to be asked once, for \[2, F\] .* got \[\[2, 36, 3\]\]"),
    ],
)
def test_features_that_cannot_be_reached_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(SourceError, match=f"toy: expected .*{message}"):
        penultimate(source(network), torch.rand(2, 3, 6, 6))


def test_a_black_box_has_no_features() -> None:
    with pytest.raises(SourceError, match=r"got only its scores; choose one, and access=white_box"):
        penultimate(BlackBox(embedded_source(), Ledger(None, "run")), torch.rand(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("mobilenetv2", 1280), ("mobilenetv1_025", 256), ("squeezenet", 512)]
)
def test_real_networks_decide_by_their_features(name: str, width: int, assets: Path) -> None:
    weights = assets / "weights"
    if name == "resnet18":
        made = torchvision_source(name, str(weights / "noncommercial/resnet18_ktb.torchvision.safetensors"))
    elif name == "squeezenet":
        made = torchvision_source("squeezenet1_0", str(weights / "squeezenet1_0_deepcomp.torchvision.safetensors"))
    elif name == "mobilenetv2":
        file = str(weights / "mobilenetv2_100_tf_same.timm.safetensors")
        made = timm_source("mobilenetv2_100", file, {"pad_type": "same"}, mean=HALF, std=HALF)
    else:
        kwargs = {"variant": "mobilenetv1_100", "channel_multiplier": 0.25, "pad_type": "same"}
        file = str(weights / "mobilenetv1_025_128.timm.safetensors")
        made = module_source("timm.models.efficientnet._gen_mobilenet_v1", (128, 128), kwargs, file, HALF, HALF)
    images = torch.rand(2, 3, *made.spec.image_size)
    features, layer = penultimate(made, images), final_layer(made)[1]
    assert features.shape == (2, width)
    if isinstance(layer, nn.Linear):
        torch.testing.assert_close(layer(features).log_softmax(1), made(images), atol=1e-5, rtol=0)
    rounded = penultimate(PreparedSource(made, "bfloat16"), images)
    assert (rounded - features).norm() < 0.1 * features.norm()
