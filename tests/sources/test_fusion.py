"""Fused convolutions: the same answers and gradients, whatever surrounds them."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from reprogram.sources.fused_convolution import FusedConvolution
from reprogram.sources.fusion import MaskedGradient, fuse

SIDE = 17


def images(count: int = 3, side: int = SIDE, channels: int = 3) -> Tensor:
    found = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(count))
    return found.contiguous(memory_format=torch.channels_last)


def expect_equal(network: nn.Module, fused: nn.Module, given: Tensor) -> None:
    """Answers without a graph, with one, and the gradient of the images."""
    found = []
    for one in (network, fused):
        with torch.inference_mode():
            plain = one(given)
        x = given.clone().requires_grad_()
        y = one(x)
        weights = torch.linspace(-1, 1, y.numel()).view_as(y)
        (gradient,) = torch.autograd.grad((y * weights).sum(), x)
        torch.testing.assert_close(plain, y.detach(), rtol=1e-4, atol=1e-4)
        found.append((y.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert found[0][1].norm() > 0


def fusing(network: nn.Module, given: Tensor, classes: int = 0) -> nn.Module:
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fused = fuse(network, given, classes)
    expect_equal(network, fused, given)
    return fused


def fused_layers(network: nn.Module) -> list[FusedConvolution]:
    return [layer for layer in network.modules() if isinstance(layer, FusedConvolution)]


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [3, 8])
def test_every_stem_has_the_gradient_of_its_image(kernel: int, stride: int, padding: int, channels: int) -> None:
    layer = nn.Conv2d(channels, 6, kernel, stride, padding)
    fused = fusing(nn.Sequential(layer, nn.ReLU()), images(channels=channels))
    assert len(fused_layers(fused)) == 1


@pytest.mark.parametrize(
    "options", [{"dilation": 2}, {"groups": 2}, {"groups": 8}, {"bias": False}, {"dilation": 2, "groups": 4}], ids=str
)
def test_dilation_groups_and_a_missing_bias_are_kept(options: dict[str, int]) -> None:
    fusing(nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, **options), nn.ReLU6()), images(channels=8))


class Residual(nn.Module):
    """Two convolutions around a shortcut, as a ResNet has them."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(width, 8, 3, padding=1) for width in (3, 8, 8))
        self.add, self.shortcut = add, nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.stem(x))
        return relu(self.add(self.two(relu(self.one(x))), self.shortcut(x)))


def added_in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


@pytest.mark.parametrize(
    "add",
    [torch.add, lambda x, y: x + y, lambda x, y: y + x, added_in_place, lambda x, y: torch.add(x, y, alpha=2)],
    ids=["add", "plus", "turned", "in-place", "alpha"],
)
@pytest.mark.parametrize("shortcut", [None, nn.Conv2d(8, 8, 1), nn.Sigmoid()], ids=["identity", "conv", "sigmoid"])
def test_a_shortcut_is_added_with_its_gradient(add: Callable, shortcut: nn.Module | None) -> None:
    fusing(Residual(add, copy.deepcopy(shortcut)), images())


def test_the_gradient_of_a_shortcut_is_added_by_the_convolution() -> None:
    layers = fused_layers(fusing(Residual(torch.add), images()))
    assert [layer.forks for layer in layers] == [False, True, False]
    assert layers[1].owns_passed
    assert layers[2].overwrites


def test_a_sum_without_an_activation_hands_on_a_gradient_that_others_hold() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = (nn.Conv2d(width, 8, 3, padding=1) for width in (3, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.two(self.one(x)) + x
            return y + y.sigmoid()

    layers = fused_layers(fusing(Sums(), images()))
    assert layers[1].forks
    assert not layers[1].owns_passed


class Broadcast(nn.Module):
    """Sums that no convolution can write."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.offset = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x) + self.offset
        return (2.0 + self.two(x)) + self.two(x.relu()).mean((2, 3), keepdim=True)


def test_what_is_broadcast_is_left_alone() -> None:
    fusing(Broadcast(), images())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 1, 1, 1)])
def test_the_mask_of_a_relu_moves_behind_a_max_pool(pool: nn.Module) -> None:
    fused = fusing(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Conv2d(8, 4, 1)), images())
    assert any(isinstance(layer, MaskedGradient) for layer in fused.modules())
    assert [layer.masks for layer in fused_layers(fused)] == [False, False]


def test_a_max_pool_beside_another_reader_does_not_take_the_mask() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = relu(self.conv(x))
            return max_pool2d(x, 2).mean((2, 3)) + x.mean((2, 3))

    assert fused_layers(fusing(Both(), images()))[0].masks


def test_a_layer_that_is_used_twice_is_fused_in_both_places() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    assert len(fused_layers(fusing(nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU()), images()))) == 2


def test_the_convolution_that_gives_the_logits_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert len(fused_layers(fusing(network, images(), classes=5))) == 1


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_other_paddings_are_left_alone(options: dict) -> None:
    assert not fused_layers(fusing(nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.ReLU()), images()))


@pytest.mark.parametrize("count", [1, 5, 33])
def test_any_number_of_images_may_come(count: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(torch.add))
    network[3].stem = nn.Conv2d(8, 8, 3, padding=1)
    fused = fusing(network, images())
    expect_equal(network, fused, images(count))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "googlenet"])
def test_networks_of_torchvision_stay_the_same(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, **options).eval()
    assert fused_layers(fusing(network, images(2, 65), classes=1000))


def test_copies_and_pickles_pack_their_weights_anew() -> None:
    fused = fusing(Residual(torch.add), images())
    layer = fused_layers(fused)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(images()), layer(images()))
    expect_equal(fused, copy.deepcopy(fused), images())


def test_weights_of_another_type_are_packed_anew() -> None:
    fused = fused_layers(fusing(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images()))[0]
    expected = fused(images())
    assert fused.bfloat16()(images()).dtype == torch.bfloat16
    torch.testing.assert_close(fused(images()).float(), expected, rtol=0.05, atol=0.05)


def test_a_graph_may_be_walked_twice_and_two_may_be_kept() -> None:
    fused = fusing(Residual(torch.add), images())
    x, y = images().requires_grad_(), images(2).requires_grad_()
    one, other = fused(x).sum(), fused(y).sum()
    (first,) = torch.autograd.grad(one, x, retain_graph=True)
    torch.autograd.grad(other, y)
    torch.testing.assert_close(torch.autograd.grad(one, x)[0], first)


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_convolution_reads_itself_is_not_overwritten_by_the_sum(turned: bool) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return relu(x + self.one(x) if turned else self.one(x) + x)

    assert not fused_layers(fusing(Own(), images()))[1].overwrites


def test_after_a_sum_only_a_relu_is_written_with_it() -> None:
    class Bounded(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.bounded(self.two(self.one(x)) + x)

    network = Bounded(torch.add)
    network.bounded = nn.ReLU6()
    assert [layer.bounds for layer in fused_layers(fusing(network, images()))] == [None, None, None]


def test_maxima_with_their_indices_keep_the_mask_before_them() -> None:
    class Indices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, return_indices=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(relu(self.conv(x)))[0]

    assert fused_layers(fusing(Indices(), images()))[0].masks


def test_in_another_type_than_can_be_packed_it_still_computes_the_same() -> None:
    fused = fusing(Residual(torch.add), images())
    expected = fused(images())
    torch.testing.assert_close(fused.double()(images().double()).float(), expected, rtol=1e-4, atol=1e-4)


def test_loaded_weights_are_packed() -> None:
    one, other = (fusing(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images()) for _ in range(2))
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(images()), one(images()))
