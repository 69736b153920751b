import json
from importlib import resources

import pytest
import torch
from torch import nn

from reprogram.sources.embedded import EmbeddedNetwork, embedded_source

WEIGHTS = resources.files("reprogram") / "weights"


@pytest.fixture(scope="module")
def source():
    return embedded_source()


def test_shipped_files_are_small_and_complete(source):
    card = json.loads((WEIGHTS / "embedded.json").read_text(encoding="utf-8"))
    assert len((WEIGHTS / "embedded.safetensors").read_bytes()) <= 2_000_000
    assert source.spec.class_names == tuple(card["class_names"])
    assert len(set(card["class_names"])) >= 100
    assert source.spec.image_size == (64, 64)
    assert card["parameters"] == sum(p.numel() for p in source.parameters())
    assert 0.5 < card["fresh_accuracy"]["all"] <= 1


def test_card_states_the_measured_accuracy():
    card = json.loads((WEIGHTS / "embedded.json").read_text(encoding="utf-8"))
    text = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert f"{card['fresh_accuracy']['all']:.3f}" in text


def test_source_returns_normalised_float32_log_probabilities_and_stays_frozen(source):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    log_probs = source.train()(images)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(3))
    assert not any(p.requires_grad for p in source.parameters())
    assert not source.training


def test_gradient_reaches_every_pixel(source):
    images = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    source(images)[0, 0].backward()
    assert (images.grad != 0).float().mean() > 0.99


def test_knows_what_it_was_trained_on(source):
    # A four-armed pinwheel and a chequerboard, drawn here: the trained network must name a fitting family.
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    pinwheel = 0.5 + 0.5 * torch.sin(4 * torch.atan2(y, x))
    mosaic = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).repeat_interleave(13, 0)[:64]
    mosaic = mosaic.repeat_interleave(13, 1)[:, :64]
    images = torch.stack([pinwheel, mosaic])[:, None].expand(-1, 3, -1, -1)
    families = [source.spec.class_names[i].split("_")[0] for i in source(images).argmax(1).tolist()]
    assert families == ["radial", "mosaic"]


def test_every_batch_norm_follows_a_convolution_so_it_can_be_folded():
    order = [m for m in EmbeddedNetwork(5).modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert len(pairs) == 17
    assert all(isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d) for a, b in pairs)
    assert all(a.bias is None and a.out_channels == b.num_features for a, b in pairs)


def test_network_can_be_traced():
    network = EmbeddedNetwork(7).eval()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(images), network(images))


def test_feature_dim_is_the_width_before_the_classifier(source):
    seen = []
    handle = source.network.classifier.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    source(torch.rand(2, 3, 64, 64))
    handle.remove()
    assert seen == [(2, source.spec.feature_dim)]
