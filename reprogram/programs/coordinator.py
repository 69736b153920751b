"""The coordinator: what a frozen encoder sees in an image decides what a small decoder adds to it."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm

from reprogram.errors import RunError
from reprogram.programs.additive import add_offset, expect_bounds, place_on_grey
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.flat_network import FlatNetwork
from reprogram.programs.placement import Placement
from reprogram.sources.base import SourceModel
from reprogram.sources.features import penultimate

WIDTHS = (64, 48, 32, 16, 8)  # channels after each block: with the paper's features, about as many weights as there
CELL = 2 ** len(WIDTHS)  # side of what one cell of the decoder's input becomes (pixels)
GROUP = 8  # channels of a norm: the last block is one group
FLATTEST = 1e-5  # least spread of features, of the largest of them: below it they count as all equal


class CoordinatorProgram(InputProgram):
    """Adds to an image what a decoder makes of the image's features and of a learned trigger.

    canvas = clip(placed + strength * tanh(dec(z, trigger)), 0, 1), z = enc(placed)

    placed is the image on mid-grey. z are the encoder's penultimate features of it, resized (bilinear, antialiased) to
    the encoder's own input; each image's features get mean 0 and variance 1, so that their scale does not matter. They
    do not depend on theta: they are computed once per image, in ``context``, however many thetas are then tried.

    z and the trigger fill a map of ceil(H / 32) x ceil(W / 32) cells, channel by channel: 32 channels, or more if z and
    one number of the trigger need them. Five blocks double its sides (a transposed 2x2 convolution of each channel, a
    1x1 convolution to 64, 48, 32, 16 and 8 channels, a group norm, a GELU), a 1x1 convolution leads to the three
    colours, and what exceeds the canvas is cut at the right and at the bottom.

    theta holds the trigger, then the decoder: with 768 features on a canvas of 224 x 224, 800 and 8,595 numbers. They
    start as standard normal ones, like z, and as PyTorch's weights, but the last layer as zero, so that the untrained
    program changes nothing: at first the gradient reaches that layer alone.

    The encoder stays frozen and in evaluation mode, and moves with the program, but it is no part of its state, which
    holds the encoder's fingerprint instead: a program is only valid with the encoder that it was trained with.

    Args:
        canvas: Height and width of the source's input (pixels).
        encoder: A network with penultimate features. It must be open, whatever the access to the source is.
        size: Side of the placed target image (pixels), or height and width; ``None``: the whole canvas.
        position: Row and column of its top left corner; ``None``: centred.
        support: Boolean [h, w], true where target images carry data.
        strength: Largest offset of a pixel, in units of the pixel range, in (0, 1]: p_eps of the paper, which tunes it
            to each task between 0.2 and 1. The decoder starts at no offset at all, so that the largest is safe.
        max_norm: Largest Euclidean norm of the offset over all pixels and channels, likewise; ``None``: unbounded.
        seed: Of trigger and decoder at the start.

    Raises:
        ConfigError: If the strength is outside (0, 1] or the norm is not above 0.
        SourceError: If the features of the encoder cannot be reached.

    Reference:
        BlackVIP: Black-Box Visual Prompting for Robust Transfer Learning, Oh et al., CVPR 2023, arXiv:2303.14773.
        Differences: any classifier is the encoder (there: ViT-B/16 of a masked autoencoder); group norms in place of
        batch norms; features standardised; the trigger starts as N(0, 1) instead of U(0, 0.1); the offset bounded by
        tanh; the last layer starts at zero; depth, widths and biases of the decoder; the encoder sees each image once
        per step, not once per query.
    """

    encoder_fingerprint: Tensor

    def __init__(
        self,
        canvas: tuple[int, int],
        encoder: SourceModel,
        size: int | Sequence[int] | None = None,
        position: Sequence[int] | None = None,
        support: Tensor | None = None,
        strength: float = 1.0,
        max_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        expect_bounds(strength, max_norm)
        self.strength, self.max_norm = strength, max_norm
        self.placement = Placement(canvas, canvas if size is None else size, position, support)
        self._encoder = (encoder.requires_grad_(False).eval(),)  # in a tuple, so that it is no submodule
        fingerprint = torch.tensor(list(bytes.fromhex(encoder.fingerprint)), dtype=torch.uint8)
        self.register_buffer("encoder_fingerprint", fingerprint)
        features = penultimate(encoder, torch.full((1, 3, *encoder.spec.image_size), 0.5)).shape[1]
        rows, columns = (ceil(side / CELL) for side in canvas)
        channels = max(32, ceil((features + 1) / (rows * columns)))
        self.cells = (channels, rows, columns)
        self.trigger = channels * rows * columns - features
        with torch.device("meta"):  # draws no random numbers
            last = nn.Conv2d(WIDTHS[-1], 3, 1)
            self.decoder = FlatNetwork(nn.Sequential(*_blocks(channels), last))
        generator = torch.Generator().manual_seed(seed)
        trigger, weights = torch.randn(self.trigger, generator=generator), self.decoder.start(generator)
        weights[-sum(parameter.numel() for parameter in last.parameters()) :] = 0
        self.theta = nn.Parameter(torch.cat([trigger, weights]))

    def context(self, images: Tensor) -> Context:
        """Places images on mid-grey and asks the encoder what it sees.

        Shapes:
            images: [B, 3, h, w] floating, in [0, 1] -> ([B, 3, H, W], [B, F] standardised features).
        """
        placed, (encoder,) = place_on_grey(self.placement, images), self._encoder
        seen = placed.to(self.theta.dtype)  # of which the encoder's weights are too
        if tuple(seen.shape[2:]) != encoder.spec.image_size:
            size = encoder.spec.image_size
            seen = interpolate(seen, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        features = penultimate(encoder, seen)
        largest = features.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
        return placed, layer_norm(features / largest, features.shape[1:], eps=FLATTEST**2).to(placed.dtype)

    def forward(self, context: Context, theta: Tensor | None = None) -> Tensor:
        """Adds the decoder's offset to placed images; theta [D] or [B, D]."""
        theta = self.theta if theta is None else theta
        (placed, features), (height, width) = context, self.placement.canvas
        trigger, weights = theta.tensor_split([self.trigger], dim=-1)
        filling = torch.cat([features.to(theta.dtype), trigger.expand(len(features), -1)], dim=1)
        offset = self.decoder(weights, filling.view(-1, *self.cells))[..., :height, :width]
        return add_offset(placed, self.strength * torch.tanh(offset), self.max_norm)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._encoder[0]._apply(fn)  # type: ignore[no-untyped-call]
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}encoder_fingerprint")
        if found is not None and not torch.equal(found.cpu(), self.encoder_fingerprint.cpu()):
            trained_with, given = (bytes(one.tolist()).hex()[:12] for one in (found, self.encoder_fingerprint))
            raise RunError(
                f"program.encoder: this program was trained with an encoder with fingerprint {trained_with}, got "
                f"{given}; use the same network, weights file and normalisation"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _blocks(inputs: int) -> list[nn.Module]:
    """Five blocks, each from [B, C, h, w] to [B, C', 2 h, 2 w]."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *WIDTHS)):
        layers += [
            nn.ConvTranspose2d(before, before, 2, stride=2, groups=before, bias=False),
            nn.Conv2d(before, after, 1),
            nn.GroupNorm(after // GROUP, after),
            nn.GELU(),
        ]
    return layers
