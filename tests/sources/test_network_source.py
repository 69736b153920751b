"""A frozen network: answers, facts, refusals."""

import hashlib
import struct
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reprogram import build
from reprogram.errors import ConfigError, ShapeError, SourceError
from reprogram.sources.network import NetworkSource, fingerprint


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def source(network: nn.Module | None = None, **changes: object) -> NetworkSource:
    arguments = {"image_size": (8, 10), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), **changes}
    return NetworkSource("small", network or small_network(), **arguments)  # type: ignore[arg-type]


def test_answers_are_those_of_the_network_on_normalised_pixels() -> None:
    made, images = source(), torch.rand(4, 3, 8, 10)
    by_hand = torch.stack([(images[:, c] - (0.4, 0.5, 0.6)[c]) / (0.2, 0.3, 0.4)[c] for c in range(3)], 1)
    expected = torch.log(made.network(by_hand).softmax(1))
    torch.testing.assert_close(made(images), expected)
    torch.testing.assert_close(made(images).exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answers_have_the_type_of_the_images(dtype: torch.dtype) -> None:
    made = source().to(dtype)
    assert made(torch.rand(2, 3, 8, 10, dtype=dtype)).dtype == dtype


def test_a_half_precision_network_still_answers_in_float32() -> None:
    made = source()
    made.network.bfloat16()
    made.mean, made.std = made.mean.bfloat16(), made.std.bfloat16()
    log_probs = made(torch.rand(2, 3, 8, 10).bfloat16())
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(2))


def test_it_is_frozen_and_in_evaluation_mode_for_life() -> None:
    made, images = source(), torch.rand(4, 3, 8, 10)
    statistics = made.network[1].running_mean.clone()
    first = made(images)
    for mode in (True, False):
        assert made.train(mode) is made
        assert not any(module.training for module in made.modules())
    wrapper = nn.Sequential(made)
    wrapper.train()
    assert torch.equal(made(images), first)  # no dropout
    assert torch.equal(made.network[1].running_mean, statistics)
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_the_gradient_reaches_the_image_and_not_the_weights() -> None:
    made, images = source(), torch.rand(2, 3, 8, 10, requires_grad=True)
    made(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in made.parameters())


def test_the_facts_are_told() -> None:
    spec = source(feature_dim=4).spec
    assert (spec.name, spec.image_size, spec.feature_dim, spec.differentiable) == ("small", (8, 10), 4, True)
    assert spec.class_names == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert spec.num_classes == 5
    assert source(class_names=["a", "b", "c", "d", 5]).spec.class_names == ("a", "b", "c", "d", "5")


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5,)},
        {"std": (0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, -1.0, 0.5)},
        {"std": (0.5, float("inf"), 0.5)},
        {"mean": (0.5, float("nan"), 0.5)},
    ],
    ids=["one-mean", "two-stds", "zero-std", "negative-std", "infinite-std", "nan-mean"],
)
def test_a_normalisation_that_cannot_work_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"three means \(source\.mean\) and three positive standard deviations"):
        source(**changes)


class NoGradient(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.detach().mean((2, 3))


def test_a_network_that_lets_no_gradient_through_says_so() -> None:
    made = NetworkSource("opaque", NoGradient(), (8, 8), (0.5,) * 3, (0.5,) * 3)
    assert not made.spec.differentiable
    with pytest.raises(ConfigError, match="access: expected black_box, since opaque gives scores but no gradient"):
        build.accessed({}, made, None)


def test_what_else_the_answers_depend_on_is_in_the_fingerprint() -> None:
    network, half = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (0.5,) * 3
    prints = {NetworkSource("net", network, (2, 2), half, half, facts=facts).fingerprint for facts in ((), ("relu",))}
    assert len(prints) == 2


@pytest.mark.parametrize("bias", [float("nan"), None], ids=["nan", "one-output"])
def test_answers_that_are_none_are_refused(bias: float | None) -> None:
    layer = nn.Linear(12, 1 if bias is None else 3)
    if bias is not None:
        nn.init.constant_(layer.bias, bias)
    with pytest.raises(SourceError, match=r"expected (two or more outputs, got 1|logits of a grey image, got NaN)"):
        NetworkSource("net", nn.Sequential(nn.Flatten(), layer), (2, 2), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("size", [(8,), (0, 8), (8, -1), (8, 8, 3)])
def test_a_size_that_cannot_work_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"image_size=\[height,width\]"):
        source(image_size=size)


def test_a_size_the_network_cannot_score_names_the_key() -> None:
    with pytest.raises(SourceError, match=r"cannot score an image of 2x10.*source\.image_size"):
        source(image_size=(2, 10))


class AssertsItsSize(nn.Module):
    """As vision transformers do, in torchvision and in timm."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == 224, f"expected 224, got {x.shape[-1]}")
        return x.mean((2, 3))


def test_a_size_that_a_transformer_refuses_names_the_key() -> None:
    with pytest.raises(SourceError, match=r"source\.image_size"):
        source(AssertsItsSize())


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_class_names_is_refused(count: int) -> None:
    with pytest.raises(SourceError, match=rf"expected {count} outputs.*got 5; set source\.class_names"):
        source(class_names=[str(index) for index in range(count)])


class Returns(nn.Module):
    """Answers what a test wants."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x: (x.mean((2, 3)),), "tuple"),
        (lambda x: x, r"\[1, 3, 8, 10\]"),
        (lambda x: x.mean((2, 3)).repeat(2, 1), r"\[2, 3\]"),
    ],
    ids=["tuple", "map", "two-rows"],
)
def test_a_network_that_does_not_return_logits_is_refused(answer: Callable[[Tensor], object], got: str) -> None:
    with pytest.raises(SourceError, match=rf"expected logits \[1, K\] for one image, got {got}; wrap the network"):
        source(Returns(answer))


@pytest.mark.parametrize("shape", [(3, 8, 10), (1, 3, 10, 8), (1, 1, 8, 10), (1, 3, 28, 28)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"small: expected images \[B, 3, 8, 10\].*place target images"):
        source()(torch.rand(shape))


def test_the_fingerprint_sees_every_weight_and_every_fact() -> None:
    network = small_network()
    one = source(network)
    prints = {one.fingerprint}
    prints.add(source(network, mean=(0.4, 0.5, 0.5)).fingerprint)
    prints.add(source(network, std=(0.2, 0.3, 0.5)).fingerprint)
    prints.add(source(network, image_size=(10, 8)).fingerprint)
    for tensor in (network[0].weight, network[1].running_var, network[5].bias):
        with torch.no_grad():
            tensor.flatten()[0] += 1e-4
        prints.add(source(network).fingerprint)
    assert len(prints) == 7


def test_the_fingerprint_is_of_the_weights_as_loaded_and_survives_use() -> None:
    made = source()
    before = made.fingerprint
    images = torch.rand(2, 3, 8, 10, requires_grad=True)
    made.train()(images).sum().backward()
    assert made.fingerprint == before
    assert fingerprint(made.network, (8, 10, 0.4, 0.5, 0.6, 0.2, 0.3, 0.4)) == before


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.copy_(torch.arange(6.0).view(2, 3))
        network.bias.copy_(torch.tensor([0.5, -0.5]))
    by_hand = b"(8, 8, 0.5)"
    by_hand += b"bias torch.float32 (2,)" + struct.pack("<2f", 0.5, -0.5)
    by_hand += b"weight torch.float32 (2, 3)" + struct.pack("<6f", 0, 1, 2, 3, 4, 5)
    assert fingerprint(network, (8, 8, 0.5)) == hashlib.sha256(by_hand).hexdigest()


def test_the_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    network = small_network()
    before = fingerprint(network)
    network.to(memory_format=torch.channels_last)
    assert fingerprint(network) == before
