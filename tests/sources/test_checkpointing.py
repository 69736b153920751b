"""Activation checkpointing: less is kept, the gradient stays."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from reprogram.errors import ConfigError
from reprogram.sources import prepared
from reprogram.sources.checkpointing import checkpoint_blocks
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource


def test_the_gradient_is_the_same_and_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "fuse", lambda network, *_: network)  # that keeps less as well
    source = NetworkSource("net", torchvision.models.resnet50(), (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    plain = PreparedSource(copy.deepcopy(source), "float32")
    less = PreparedSource(copy.deepcopy(source), "float32", checkpointing=True)
    images, found = torch.rand(2, 3, 64, 64), []
    for made in (plain, less):
        given = images.clone().requires_grad_()
        made(given)[:, 7].sum().backward()
        found.append(given.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-4)
    assert less._bytes_of_an_image() < 0.8 * plain._bytes


def test_blocks_within_blocks_are_part_of_them() -> None:
    block = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.ReLU())
    network = nn.Sequential(block, nn.Conv2d(3, 4, 1))
    checkpoint_blocks(network)
    assert [type(layer).__name__ for layer in network] == ["_Recomputed", "Conv2d"]
    assert len([layer for layer in network.modules() if type(layer).__name__ == "_Recomputed"]) == 1


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"source\.checkpointing: expected a network made of blocks"):
        checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))


def test_blocks_with_names_are_found_too() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    network = nn.Sequential()
    network.add_module("first", block)
    checkpoint_blocks(network)
    assert type(network.first).__name__ == "_Recomputed"
