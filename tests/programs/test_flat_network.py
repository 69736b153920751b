"""A network whose weights come from outside computes what it computes with its own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from reprogram.programs.flat_network import CHUNK, FlatNetwork


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(8, 2, 1),
    )


def decoder() -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(3, 3, 2, stride=2, groups=3, bias=False), nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4), nn.GELU()
    )


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 35, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 2)))


def loop(network: nn.Module, flat: Tensor, inputs: Tensor) -> Tensor:
    """Every image through a network that owns its row of weights."""
    answers = []
    for row, image in zip(flat, inputs, strict=True):
        owner = copy.deepcopy(network).to(row.dtype)
        vector_to_parameters(row, owner.parameters())
        answers.append(owner(image[None])[0])
    return torch.stack(answers)


each_network = pytest.mark.parametrize("make", [convolutions, decoder, linear])


@each_network
@pytest.mark.parametrize("count", [1, CHUNK + 3])
def test_it_computes_what_networks_with_these_weights_do(make, count: int) -> None:
    network, flat = make(), FlatNetwork(make())
    dimension = sum(parameter.numel() for parameter in network.parameters())
    weights, inputs = torch.randn(count, dimension), torch.randn(count, 3, 7, 5)
    torch.testing.assert_close(flat(weights, inputs), loop(network, weights, inputs), atol=1e-5, rtol=1e-5)
    shared = flat(weights[0], inputs)
    torch.testing.assert_close(shared, loop(network, weights[:1].expand(count, -1), inputs), atol=1e-5, rtol=1e-5)


@each_network
def test_the_gradient_of_a_row_is_that_of_its_own_image(make) -> None:
    flat = FlatNetwork(make())
    weights = torch.randn(3, len(flat.start(torch.Generator())), dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(3, 3, 7, 5, dtype=torch.float64)
    outputs = flat(weights, inputs)
    weight = torch.randn_like(outputs)
    (together,) = torch.autograd.grad((outputs * weight).sum(), weights)
    for index in range(3):
        row = weights[index].detach().requires_grad_()
        alone = flat(row, inputs[index : index + 1])
        (gradient,) = torch.autograd.grad((alone * weight[index : index + 1]).sum(), row)
        torch.testing.assert_close(together[index], gradient)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(300, 40), lambda: nn.Conv2d(12, 40, 3), lambda: nn.ConvTranspose2d(40, 40, 4, groups=20)],
    ids=["linear", "convolution", "transposed"],
)
def test_the_start_is_pytorchs_own(make) -> None:
    """PyTorch's draw of the same shape is the reference: uniform numbers have their range and their deviation."""
    layer = make()
    sizes = [parameter.numel() for parameter in layer.parameters()]
    expected = [parameter.detach().flatten() for parameter in layer.parameters()]
    found = FlatNetwork(copy.deepcopy(layer)).start(torch.Generator().manual_seed(0)).split(sizes)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.2)
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.3)
        assert ours.min() < 0 < ours.max()


def test_a_norm_starts_as_the_identity_and_a_seed_gives_the_same_start() -> None:
    flat = FlatNetwork(convolutions())
    one, same, other = (flat.start(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one[8 * 27 + 8 :][:16].tolist() == [1.0] * 8 + [0.0] * 8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_it_has_no_state_and_follows_the_weights_wherever_they_are() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = FlatNetwork(convolutions())
            self.theta = nn.Parameter(self.network.start(torch.Generator().manual_seed(0)))

    owner = Owner()
    assert list(owner.state_dict()) == ["theta"]
    assert list(owner.parameters()) == [owner.theta]
    copied, inputs = copy.deepcopy(owner).double(), torch.rand(2, 3, 7, 5)
    answer = copied.network(copied.theta, inputs)  # single precision in, double out
    assert answer.dtype == torch.float64
    torch.testing.assert_close(answer.float(), owner.network(owner.theta, inputs))
    copied.to("meta")
    assert copied.network(copied.theta, inputs.to("meta")).is_meta


class Sum(nn.Module):
    """Of two inputs, the second through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + self.layer(other)


def test_several_inputs_are_cut_alike() -> None:
    flat, one, other = FlatNetwork(Sum()), torch.randn(5, 3), torch.randn(5, 2)
    weights = torch.randn(5, 9)
    together = flat(weights, one, other)
    for index, row in enumerate(weights):
        torch.testing.assert_close(together[index], one[index] + row[:6].view(3, 2) @ other[index] + row[6:])


def test_a_network_that_remembers_images_is_refused() -> None:
    with pytest.raises(AssertionError, match="a network with a state"):
        FlatNetwork(nn.BatchNorm2d(3))
