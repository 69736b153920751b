"""The fast path: rewritten networks answer as the original does, or are left alone."""

import copy
import gc
import logging
import weakref
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import conv2d

from reprogram.errors import ConfigError
from reprogram.sources import folding, prepared
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource

SIDE = 16


@torch.no_grad()
def randomised(network: nn.Module, side: int) -> nn.Module:
    """BatchNorms that let the image through and are far from the identity, so that a wrong fold cannot hide."""
    generator = torch.Generator().manual_seed(7)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(torch.rand(8, 3, side, side, generator=generator))
    for norm in norms:
        noise = torch.randn(norm.num_features, generator=generator)
        norm.running_mean += 0.3 * noise * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(noise).uniform_(0.8, 1.25, generator=generator)
        if norm.affine:
            norm.weight.uniform_(0.8, 1.2, generator=generator)
            norm.bias.normal_(std=0.3, generator=generator)
    return network.eval()


def source(network: nn.Module, side: int = SIDE) -> NetworkSource:
    return NetworkSource("net", randomised(network, side), (side, side), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def answers_and_gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    log_probs = model(images)
    torch.manual_seed(3)
    (gradient,) = torch.autograd.grad((log_probs * torch.randn_like(log_probs)).sum(), images)
    return log_probs.detach(), gradient


def prepare_and_compare(network: nn.Module, side: int = SIDE) -> PreparedSource:
    """Prepares a copy, and demands equal answers and equal gradients of the image."""
    original = source(network, side)
    made = PreparedSource(copy.deepcopy(original), "float32")
    images = torch.rand(3, 3, side, side)
    got, got_gradient = answers_and_gradient(made, images)
    expected, expected_gradient = answers_and_gradient(original, images)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert expected_gradient.norm() > 1e-3
    # as a whole: rounding may put single ReLUs on the other side
    assert (got_gradient - expected_gradient).norm() < 5e-3 * expected_gradient.norm()
    assert made.preparation.max_difference < 10 * folding.FOLDING_TOLERANCE
    assert made.preparation.agreement == 1
    return made


class Head(nn.Module):
    """Pools and classifies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def test_resnet18_is_folded_completely_and_answers_alike() -> None:
    made = prepare_and_compare(torchvision.models.resnet18(), 64)
    assert made.preparation.folded == 20
    assert not [layer for layer in made.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize(("name", "folded"), [("shufflenet_v2_x0_5", 56), ("mnasnet0_5", 52)])
def test_depthwise_grouped_and_biased_convolutions_are_folded(name: str, folded: int) -> None:
    network = torchvision.models.get_model(name)
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert prepare_and_compare(network, 64).preparation.folded == norms == folded


def test_a_bias_before_the_norm_is_kept() -> None:
    made = prepare_and_compare(nn.Sequential(nn.Conv2d(3, 6, 3, bias=True), nn.BatchNorm2d(6), nn.ReLU(), Head(6)))
    assert made.preparation.folded == 1


def test_a_norm_without_weights_is_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), Head(6))
    assert prepare_and_compare(network).preparation.folded == 1


def test_timm_norms_keep_their_activation() -> None:
    timm = pytest.importorskip("timm")
    made = prepare_and_compare(timm.create_model("test_efficientnet"), 32)
    assert made.preparation.folded == 13


def test_a_pre_activation_network_is_folded_only_where_it_may() -> None:
    timm = pytest.importorskip("timm")
    options = {"layers": [1, 1, 1, 1], "channels": (32, 64, 128, 256), "stem_chs": 16, "num_classes": 10}
    made = prepare_and_compare(timm.create_model("resnetv2_50", **options), 64)
    # per block, norm1 reads a sum (or a pooled stem), norm2 and norm3 read a convolution; the last norm reads a sum
    assert made.preparation.folded == 8


class TwoReaders(nn.Module):
    """The second convolution feeds its norm and a shortcut, as in pre-activation networks; the first only its norm."""

    def __init__(self, shortcut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
        self.conv, self.norm, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), Head(6)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv(self.stem(x).tanh())
        return self.head(self.norm(inner).tanh() + self.shortcut(inner))


@pytest.mark.parametrize(
    "shortcut", [lambda x: x, lambda x: x * 0.5, lambda x: x.mean((2, 3), keepdim=True), nn.MaxPool2d(3, 1, 1)]
)
def test_a_convolution_with_two_readers_is_not_folded_but_the_rest_is(shortcut: Callable[[Tensor], Tensor]) -> None:
    made = prepare_and_compare(TwoReaders(shortcut))
    assert made.preparation.folded == 1
    assert isinstance(made.source.network.norm, nn.BatchNorm2d)


class Shared(nn.Module):
    """Uses its convolution, its norm, or both, twice, after a stem that can be folded."""

    def __init__(self, convs: int, norms: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(convs)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(norms)])
        self.head = Head(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for turn in range(2):
            x = self.norms[turn % len(self.norms)](self.convs[turn % len(self.convs)](x)).tanh()
        return self.head(x)


@pytest.mark.parametrize(("convs", "norms", "folded"), [(1, 2, 1), (2, 1, 1), (1, 1, 1), (2, 2, 3)])
def test_what_is_used_twice_is_not_folded_but_the_rest_is(convs: int, norms: int, folded: int) -> None:
    assert prepare_and_compare(Shared(convs, norms)).preparation.folded == folded


def test_two_convolutions_with_one_weight_are_folded_each_with_its_own_norm() -> None:
    network = Shared(2, 2)
    network.convs[1].weight = network.convs[0].weight
    assert prepare_and_compare(network).preparation.folded == 3


def test_a_norm_by_the_statistics_of_the_batch_is_not_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), Head(6))
    made = PreparedSource(source(network), "float32")
    assert made.preparation.folded == 0


class ReadsTheWeight(nn.Module):
    """Applies the same weight once more behind the module's back: folding must change the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), Head(6)
        self.other = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        again = conv2d(x, self.first.weight)
        return self.head(self.norm(self.first(x)).relu() + again + self.other(x))


def test_when_folding_changes_the_answers_all_of_it_is_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger=prepared.__name__):
        made = prepare_and_compare(ReadsTheWeight())
    assert made.preparation.folded == 0
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in made.modules()) == 2
    assert "net: folding BatchNorm changed the answers" in caplog.text
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert not any(module.training for module in made.train().modules())


class Standardised(nn.Conv2d):
    """Normalises its weight in every forward, so nothing can be folded into it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


def test_a_convolution_that_rewrites_its_weight_is_not_folded_wrongly() -> None:
    made = prepare_and_compare(nn.Sequential(Standardised(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Head(6)))
    assert made.preparation.folded == 0


def test_bfloat16_answers_in_float32_and_close_by() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Head(8))
    original = source(network)
    made = PreparedSource(copy.deepcopy(original), "bfloat16")
    images = torch.rand(3, 3, SIDE, SIDE)
    log_probs, gradient = answers_and_gradient(made, images)
    expected, exact = answers_and_gradient(original, images)
    assert made.source.network[0].weight.dtype == torch.bfloat16
    assert log_probs.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(3))
    torch.testing.assert_close(log_probs, expected, atol=0.05, rtol=0)
    assert not torch.equal(log_probs, expected)
    assert torch.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.99
    assert made.preparation.precision == "bfloat16"
    assert 0 < made.preparation.max_difference < 0.05


@pytest.mark.parametrize(("gains", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_hardware(gains: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "gains_from_bfloat16", lambda device_type: gains)
    made = PreparedSource(source(nn.Sequential(nn.Conv2d(3, 4, 3), Head(4))))
    assert made.preparation.precision == precision


def test_without_a_gpu_none_is_counted_on() -> None:
    if not torch.cuda.is_available():
        assert prepared.gains_from_bfloat16("cuda") is False


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"source\.precision: expected auto, float32, .*, float16, got 'int8'"):
        PreparedSource(source(nn.Sequential(nn.Conv2d(3, 4, 3), Head(4))), "int8")


def test_facts_and_fingerprint_are_those_of_the_original() -> None:
    original = source(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Head(6)))
    fingerprint, spec = original.fingerprint, original.spec
    for precision in ("float32", "bfloat16"):
        made = PreparedSource(copy.deepcopy(original), precision)
        assert made.fingerprint == fingerprint
        assert made.spec == spec


def test_a_prepared_source_is_frozen_and_in_evaluation_mode_for_life() -> None:
    made = PreparedSource(source(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), Head(6))))
    nn.Sequential(made).train()
    assert not any(module.training for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())
    images = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(made(images), made(images))


def test_the_summary_reads_as_one_line() -> None:
    made = PreparedSource(source(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), Head(6))), "float32")
    assert str(made.preparation).startswith(
        "1 BatchNorms folded, 1 convolutions fused, channels_last, float32: log-probabilities differ by"
    )
    assert "top-1 agreement 100%" in str(made.preparation)


def test_images_go_in_parts_without_a_graph_and_together_with_one() -> None:
    made = PreparedSource(source(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Head(6))), "float32", micro_batch=2)
    sizes: list[int] = []
    made.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    images = torch.rand(5, 3, SIDE, SIDE)
    with torch.no_grad():
        parts = made(images)
    assert sizes == [2, 2, 1]
    whole = made(images.requires_grad_())
    assert sizes[3:] == [5]
    torch.testing.assert_close(parts, whole.detach())
    assert made.at_once() == made.at_once(graph=True) == 2


@pytest.mark.parametrize(("free", "without", "with_graph"), [(1 << 40, 16, None), (0, 1, 1)])
def test_as_many_as_fit_into_half_of_the_free_memory_go_together(
    free: int, without: int, with_graph: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "free_memory", lambda device: free)
    made = PreparedSource(source(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Head(6))), "float32")
    assert made.at_once() == without
    assert made.at_once(graph=True) == (with_graph or free // 2 // made._bytes)
    # what the graph keeps: the ReLU's output of 6 x 14 x 14 float32, and little else
    assert 6 * 14 * 14 * 4 <= made._bytes < 2 * 6 * 14 * 14 * 4 + 4096


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "tf32"}, r"source\.precision: tf32 is of CUDA devices, got cpu; use float32"),
        ({"compile_mode": "fast"}, r"source\.compile_mode: expected null or one of default, .*, got 'fast'"),
        ({"micro_batch": 0}, r"source\.micro_batch: expected a whole number >= 1 or null, got 0"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_choices_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PreparedSource(source(nn.Sequential(nn.Conv2d(3, 4, 3), Head(4))), **options)


def test_a_network_that_cannot_be_traced_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class ByValue(Head):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.mean() > 100 else -x)

    with caplog.at_level(logging.INFO, logger=prepared.__name__):
        made = prepare_and_compare(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sigmoid(), ByValue(6)))
    assert made.preparation.fused == 0
    assert "convolutions are not fused (TraceError" in caplog.text


def test_a_fused_network_that_answers_otherwise_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return 1.01 * self.network(x)

    monkeypatch.setattr(prepared, "fuse", lambda network, *_: Wrong(network))
    with caplog.at_level(logging.INFO, logger=prepared.__name__):
        made = prepare_and_compare(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Head(6)))
    assert made.network is made.source.network
    assert "convolutions are not fused, which changed the answers by 1.0e-02" in caplog.text


def test_a_source_that_nobody_uses_any_more_is_freed() -> None:
    """What it keeps while its memory is measured must not keep itself, or rounds of training would fill the memory."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    made = PreparedSource(source(network), "float32")
    alive = [weakref.ref(layer) for layer in made.modules()]
    assert made.at_once(graph=True) >= 1
    del made, network
    gc.collect()
    assert not [one() for one in alive if one() is not None]
