"""The small source model that ships with the package, so that everything runs offline."""

import json
from importlib import resources

import torch
from safetensors.torch import load
from torch import Tensor, nn

from reprogram.sources.network import NetworkSource

WEIGHTS = resources.files("reprogram") / "weights"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: 2 halves height and width.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        inner = self.relu(self.norm1(self.conv1(x)))
        out: Tensor = self.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return out


class EmbeddedNetwork(nn.Module):
    """Compact residual network for 64x64 images: 0.85 M parameters, 32 M multiply-adds per image.

    Args:
        num_classes: Width of the last layer.
    """

    feature_dim = 192

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.blocks = nn.Sequential(
            ResidualBlock(24, 32, 2),
            ResidualBlock(32, 32, 1),
            ResidualBlock(32, 80, 2),
            ResidualBlock(80, 80, 1),
            ResidualBlock(80, 128, 2),
            ResidualBlock(128, 128, 1),
        )
        self.head = nn.Sequential(
            nn.Conv2d(128, self.feature_dim, 1, bias=False), nn.BatchNorm2d(self.feature_dim), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: normalised images [B, 3, 64, 64] -> logits [B, num_classes]."""
        features = self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)
        logits: Tensor = self.classifier(features)
        return logits


def embedded_source() -> NetworkSource:
    """Builds the shipped source; its card, ``reprogram/weights/README.md``, says what it was trained on.

    The weights are stored as float16 and run as float32.
    """
    card = json.loads((WEIGHTS / "embedded.json").read_text(encoding="utf-8"))
    network = EmbeddedNetwork(len(card["class_names"]))
    state = load((WEIGHTS / "embedded.safetensors").read_bytes())
    # BatchNorm's batch counters are integers and stay so.
    network.load_state_dict({k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()})
    height, width = card["image_size"]
    return NetworkSource(
        name=card["name"],
        network=network,
        image_size=(height, width),
        mean=card["mean"],
        std=card["std"],
        class_names=card["class_names"],
        feature_dim=network.feature_dim,
    )
