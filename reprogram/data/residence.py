"""Where a split's pixels live: on the device, or on the host, from where each batch is fetched ahead of its turn."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor

from reprogram.data.base import Examples
from reprogram.memory import free_memory

_PARTS = {"cuda": 2}  # one of so many parts of the free memory is what a split may take
_OTHER_PARTS = 4  # of the main memory, which everything else needs too
_CHUNK = 256  # images that are moved at a time: main memory never holds a second copy of a split

_Fetched = tuple[Tensor, torch.cuda.Event | None]

_logger = logging.getLogger(__name__)


class Residence(ABC):
    """Gives the batches of one split on one device; once made, it never makes the host wait for the device.

    Attributes:
        examples: The split.
        device: Where its batches are.
        targets: [N] int64 on the device.
        trust: [N] float32 there, or ``None``; see ``Examples``.
        weights: [N] float32 there, trust / mean trust of the split, or ``None``.
    """

    trust: Tensor | None
    weights: Tensor | None

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.examples, self.device = examples, device
        with torch.inference_mode(False):  # what is kept must be good for training too
            self.targets = on_device(examples.targets, device)
            self.trust = self.weights = None
            if examples.trust is not None:
                relative = (examples.trust.double() / examples.trust.double().mean()).float()
                self.trust, self.weights = on_device(examples.trust, device), on_device(relative, device)

    @abstractmethod
    def images(self, order: Tensor, rows: Tensor, shares: Iterable[slice]) -> Generator[Tensor, None, None]:
        """The images of one share after the other, on the device.

        Shapes:
            order: [N] int64 row numbers, on the host; rows: the same on the device; shares: parts of both
                -> [B, C, h, w] uint8 each.
        """


class Resident(Residence):
    """The whole split is on the device. Images on the CPU already are; a mapped file is read once."""

    def __init__(self, examples: Examples, device: torch.device) -> None:
        super().__init__(examples, device)
        images = examples.images
        if isinstance(images, Tensor) and images.device == device:
            self._images = images
            return
        with torch.inference_mode(False):
            self._images = torch.empty(images.shape, dtype=images.dtype, device=device)
            for start in range(0, len(images), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                self._images[chunk].copy_(images[chunk], non_blocking=True)

    def images(self, order: Tensor, rows: Tensor, shares: Iterable[slice]) -> Generator[Tensor, None, None]:
        """See ``Residence``."""
        for share in shares:
            yield self._images[rows[share]]


class Fetched(Residence):
    """The split stays where it is; a thread fetches the next batch while the last one is worked on.

    For a CUDA device it goes through pinned memory and a stream of its own. The thread ends with the pass, however that
    ends; an error in it is raised where its batch was due.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        super().__init__(examples, device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def images(self, order: Tensor, rows: Tensor, shares: Iterable[slice]) -> Generator[Tensor, None, None]:
        """See ``Residence``."""
        to_come = (order[share] for share in shares)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch") as thread:
            ahead = [thread.submit(self._fetch, part) for part in islice(to_come, 1)]
            while ahead:
                fetched = ahead.pop().result()
                ahead += [thread.submit(self._fetch, part) for part in islice(to_come, 1)]
                yield self._arrived(*fetched)

    def _fetch(self, rows: Tensor) -> _Fetched:
        if self._stream is None:
            return self.examples.images[rows].to(self.device), None
        with torch.cuda.stream(self._stream):
            images = on_device(self.examples.images[rows], self.device)
            return images, self._stream.record_event()

    def _arrived(self, images: Tensor, event: torch.cuda.Event | None) -> Tensor:
        """Has the device, not the host, wait for the copy, and keeps its memory until it was worked on."""
        if event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(event)
            images.record_stream(stream)
        return images


def residence(examples: Examples, device: torch.device, processes: int = 1) -> Residence:
    """Where a split lives for batches on a device; loaders of the same split share it, and it ends with the last one.

    Resident, if that takes at most half of a CUDA device's free memory, or for a mapped file a quarter of the main
    memory, of which each of ``processes`` gets its part.
    """
    key = (id(examples), device)  # no other split's while this one lives: the residence holds it
    found = _known.get(key)
    if found is None:
        fits = _fits(examples, device, processes)
        found = _known[key] = Resident(examples, device) if fits else Fetched(examples, device)
    return found


_known: WeakValueDictionary[tuple[int, torch.device], Residence] = WeakValueDictionary()
_told: WeakSet[Examples] = WeakSet()  # said to the user once, not at every pass


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for the copy."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _fits(examples: Examples, device: torch.device, processes: int) -> bool:
    images = examples.images
    if isinstance(images, Tensor) and images.device == device:
        return True
    parts = _PARTS.get(device.type, _OTHER_PARTS * processes)
    size, free = images.shape.numel(), free_memory(device)
    if size <= free // parts:
        return True
    if examples not in _told:
        _told.add(examples)
        message = "data     %d images (%.1f GB) are fetched batch by batch: %.1f GB are free on %s, 1/%d may be used"
        _logger.info(message, len(examples), size / 1e9, free / 1e9, device, parts)
    return False
