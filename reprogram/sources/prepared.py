"""The fast path: a frozen network may be rewritten, as long as its answers stay the same.

Without matrix units bfloat16 is emulated and many times slower than float32, so it is never chosen there. What each
step of it gives is measured in benchmarks/training.md and benchmarks/queries_per_second.md.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from reprogram.distributed import number_of_processes
from reprogram.errors import ConfigError
from reprogram.memory import free_memory
from reprogram.sources.base import SourceModel
from reprogram.sources.checkpointing import checkpoint_blocks
from reprogram.sources.folding import fold_batch_norms
from reprogram.sources.fused_convolution import FusedConvolution
from reprogram.sources.fusion import fuse
from reprogram.sources.network import NetworkSource

log = logging.getLogger(__name__)

PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")

FUSION_TOLERANCES = (1e-3, 1e-3, 2e-2)
"""Largest relative differences that fusing may cause in float32: of answers without a graph and with one, and of the
gradient, which tells when rounding puts single ReLUs on the other side."""

MOST_AT_ONCE = {"cpu": 16, "cuda": 256}  # larger forwards are not faster, and take more memory
SHARE = 0.5  # of the free memory that a batch may take


@dataclass(frozen=True)
class Preparation:
    """What was done to a network, and what it changed on eight random images.

    ``max_difference`` is of log-probabilities; ``agreement`` of top-1 is in [0, 1].
    """

    folded: int
    fused: int
    precision: str
    compile_mode: str | None
    max_difference: float
    agreement: float

    def __str__(self) -> str:
        """Reads as one line of a log."""
        fused = f", {self.fused} convolutions fused" if self.fused else ""
        compiled = f", compiled ({self.compile_mode})" if self.compile_mode else ""
        return (
            f"{self.folded} BatchNorms folded{fused}, channels_last, {self.precision}{compiled}: log-probabilities "
            f"differ by at most {self.max_difference:.1e}, top-1 agreement {self.agreement:.0%}"
        )


class PreparedSource(SourceModel):
    """Answers like the source it was made from, faster. The original network is rewritten in place, not kept.

    Images are scored in parts, so a network must not mix those of a batch.

    Args:
        source: Its network's BatchNorms are folded into the convolutions before them, where nothing else reads those.
            On the CPU its convolutions are fused with what follows them (see ``fuse``), where that can be done.
        precision: ``float32``, ``tf32`` (CUDA), ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the hardware
            gains from it.
        device_type: ``cpu`` or ``cuda``: where the source will run.
        compile_mode: Mode of ``torch.compile``; its first step takes a minute or so. ``reduce-overhead`` records CUDA
            graphs. Batches are padded to the largest so far, so that shapes stay. ``None``: not compiled.
        checkpointing: Whether the backward recomputes each block of the network instead of keeping what is within:
            for networks of which not even a few images fit into memory.
        micro_batch: Most images at once, >= 1; ``None``: as many as fit into half of the free memory.

    Raises:
        ConfigError: If precision or mode has no such name or is not for this device, or ``micro_batch`` is below 1.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        source: NetworkSource,
        precision: str = "auto",
        device_type: str = "cpu",
        compile_mode: str | None = None,
        checkpointing: bool = False,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.precision = _precision(precision, device_type)
        if compile_mode not in (None, *COMPILE_MODES):
            known = ", ".join(COMPILE_MODES)
            raise ConfigError(f"source.compile_mode: expected null or one of {known}, got '{compile_mode}'")
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"source.micro_batch: expected a whole number >= 1 or null, got {micro_batch}")
        self.spec, self.dtype = source.spec, PRECISIONS[self.precision]
        self.register_buffer("shift", -source.mean / source.std, persistent=False)
        self.register_buffer("scale", 1 / source.std, persistent=False)
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(8, 3, *source.spec.image_size, generator=generator)
        with torch.inference_mode():
            before = source(probe)
        folded = fold_batch_norms(source, probe, before)
        source.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.source, self.network = source, source.network
        self._given, self._limits = micro_batch, dict[bool, int]()  # most at once, with a graph and without
        self._compiled, self._largest = False, {True: 0, False: 0}  # batch so far, likewise
        inner = 0
        if checkpointing:
            inner = self._bytes_of_an_image() // 4  # about the largest block, which the backward computes again
            checkpoint_blocks(source.network)
        elif device_type == "cpu" and compile_mode is None:
            self.network = self._fused(probe)
        for layer in source.network.modules() if self.dtype != torch.float32 else ():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(self.dtype)  # once, instead of at every forward by autocast
        fused = [layer for layer in self.network.modules() if isinstance(layer, FusedConvolution)]
        for convolution in fused:
            convolution.pack()
        with torch.inference_mode():
            after = self._score(probe)
        self._bytes = self._bytes_of_an_image() + inner
        self._compiled = compile_mode is not None
        if compile_mode is not None:
            self.network = torch.compile(self.network, dynamic=False, mode=compile_mode)  # type: ignore[assignment]
        self.preparation = Preparation(
            folded,
            len(fused),
            self.precision,
            compile_mode,
            max_difference=(after - before).abs().max().item(),
            agreement=(after.argmax(1) == before.argmax(1)).float().mean().item(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores images in the prepared layout and precision; without a graph, so many at once as ``at_once`` says."""
        self.source.expect_images(images)
        if torch.is_grad_enabled() and images.requires_grad:
            return self._score(images)
        parts = [self._score(part) for part in torch.split(images, self.at_once())]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def at_once(self, graph: bool = False) -> int:
        """See ``SourceModel``; memory is asked for once, so that what else runs later changes nothing."""
        if self._given is not None:
            return self._given
        if graph not in self._limits:
            device = self.shift.device
            free = free_memory(device) // (number_of_processes() if device.type == "cpu" else 1)
            fitting = max(1, int(SHARE * free) // self._bytes)
            self._limits[graph] = fitting if graph else min(fitting, MOST_AT_ONCE.get(device.type, 16))
        return self._limits[graph]

    @property
    def fingerprint(self) -> str:
        """That of the original weights."""
        return self.source.fingerprint

    def _score(self, images: Tensor) -> Tensor:
        pixels = self._normalised(images, self.dtype)
        if self._compiled:  # another shape would be compiled, or recorded, anew
            graph = pixels.requires_grad
            self._largest[graph] = max(self._largest[graph], len(pixels))
            pixels = nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, self._largest[graph] - len(pixels)))
        if pixels.is_cuda:  # for the backward too; by default PyTorch rounds float32 to 10 bits in convolutions
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        with torch.autocast(pixels.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.network(pixels)
        dtype = torch.promote_types(images.dtype, torch.float32)
        return logits[: len(images)].to(dtype).log_softmax(dim=1)

    def _normalised(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        pixels: Tensor = _Normalise.apply(images, self.scale, self.shift, dtype)  # type: ignore[no-untyped-call]
        return pixels

    def _fused(self, probe: Tensor) -> nn.Module:
        """The network with its convolutions fused, if that can be done and changes nothing; else the network."""
        network, images = self.source.network, self._normalised(probe[:2], torch.float32)
        try:
            made = fuse(network, images, self.spec.num_classes)
            pairs = zip(*(_answers(one, images, self.spec.differentiable) for one in (network, made)), strict=True)
            changed = [float((got - expected).norm() / expected.norm()) for expected, got in pairs]
        except Exception as error:  # a network of anyone's may refuse to be traced in any way
            log.info("%s: convolutions are not fused (%s: %s)", self.spec.name, type(error).__name__, error)
            return network
        if not all(one <= most for one, most in zip(changed, FUSION_TOLERANCES, strict=False)):
            log.info("%s: convolutions are not fused, which changed the answers by %.1e", self.spec.name, max(changed))
            return network
        return made

    def _bytes_of_an_image(self) -> int:
        """What the graph of one image keeps."""
        kept: dict[int, torch.UntypedStorage] = {}
        weights = {weight.untyped_storage().data_ptr() for weight in self.parameters()}  # views of them are kept too

        def note(tensor: Tensor) -> None:  # an output that was kept itself would keep its graph, and that the network
            if tensor.untyped_storage().data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

        image = torch.full((1, 3, *self.spec.image_size), 0.5, requires_grad=True)
        with torch.enable_grad(), saved_tensors_hooks(note, lambda _: _):
            self._score(image)
        return max(1, sum(storage.nbytes() for storage in kept.values()))


def gains_from_bfloat16(device_type: str) -> bool:
    """Whether bfloat16 is faster on ``cpu`` or ``cuda`` of this machine."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return bool(torch.cpu._is_amx_tile_supported())  # AVX512-BF16 alone made it slower, 278 for 386 images/s


class _Normalise(Function):
    """(images - mean) / std in the type and layout of the network; both ways in as few passes as PyTorch allows."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.scale, ctx.dtype = scale, images.dtype
        images = images.contiguous()  # a factor for each channel is slow where channels come last
        return torch.addcmul(shift, images, scale).to(dtype).contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradient = gradient.to(ctx.dtype, memory_format=torch.contiguous_format, copy=True)
        return gradient.mul_(ctx.scale), None, None, None


def _precision(choice: str, device_type: str) -> str:
    """Name of a precision, chosen by the hardware for ``auto``."""
    if choice not in (*PRECISIONS, "auto"):
        raise ConfigError(f"source.precision: expected auto, {', '.join(PRECISIONS)}, got '{choice}'")
    if choice == "tf32" and device_type != "cuda":
        raise ConfigError(f"source.precision: tf32 is of CUDA devices, got {device_type}; use float32")
    if choice == "auto":
        return "bfloat16" if gains_from_bfloat16(device_type) else "float32"
    return choice


def _answers(network: nn.Module, images: Tensor, differentiable: bool) -> list[Tensor]:
    """Logits, and the gradient of a sum of them whose weights differ."""
    with torch.no_grad():
        plain: Tensor = network(images)
    if not differentiable:
        return [plain]
    with torch.enable_grad():  # whatever the caller has chosen
        images = images.clone().requires_grad_()
        logits: Tensor = network(images)
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        return [plain, logits.detach(), torch.autograd.grad((logits * weights).sum(), images)[0]]
