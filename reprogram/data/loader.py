"""Batches of one split in an order that no number of processes and no interruption can change."""

from collections.abc import Iterator, Mapping
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from reprogram.data.base import Examples
from reprogram.data.residence import Residence, on_device, residence
from reprogram.errors import ConfigError, RunError, ShapeError
from reprogram.types import Batch

CPU = torch.device("cpu")


class BatchLoader:
    """Iterates over the batches of one epoch; each process gets every ``world_size``-th example of a global batch.

    The order is a function of (seed, epoch). The last batch may be smaller; nothing is padded or dropped. A process
    whose share of a batch is empty gets the batch's first example with weight 0, so that all take the same steps.

    Args:
        examples: The split.
        batch_size: Examples of a *global* batch, over all processes, >= 1.
        shuffle: Whether each epoch has its own order.
        seed: Of the order, >= 0.
        rank: This process, 0..world_size-1.
        world_size: Number of processes.
        device: Where the batches are; the split moves there with the first one, if it fits (see ``residence``).

    Raises:
        ConfigError: If ``batch_size`` is below 1, ``seed`` negative, or ``rank`` is not one of the processes.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device = CPU,
    ) -> None:
        if batch_size < 1 or seed < 0 or not 0 <= rank < world_size:
            raise ConfigError(
                "BatchLoader: expected batch_size >= 1, seed >= 0 and 0 <= rank < world_size, "
                f"got batch_size {batch_size}, seed {seed}, rank {rank}, world_size {world_size}"
            )
        self.examples = examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self._home: Residence | None = None  # not before it is needed: a process may not have its device yet
        self._epoch = 0
        self._position = 0  # batches handed out in this epoch
        self._resume_at = 0  # where the next pass starts; not 0 only after a state was loaded

    def __len__(self) -> int:
        """Number of global batches, the same for every process."""
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the rest of the epoch after a state was loaded, else the whole epoch."""
        start, self._resume_at = self._resume_at, 0
        if self._home is None:
            self._home = residence(self.examples, self.device, self.world_size)
        home, order = self._home, self._order()
        rows = on_device(order, self.device)
        shares = [self._share(position) for position in range(start, len(self))]
        with closing(home.images(order, rows, [part for part, _ in shares])) as images:
            for position, ((part, weight), pixels) in enumerate(zip(shares, images, strict=True), start):
                self._position = position + 1
                indices = rows[part]
                weights = torch.full((len(indices),), weight, dtype=torch.float32, device=self.device)
                if home.weights is not None:
                    weights = weights * home.weights[indices]
                trust = None if home.trust is None else home.trust[indices]
                yield Batch(pixels, home.targets[indices], weights, indices, trust)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; a new epoch starts at its first batch."""
        if epoch != self._epoch:
            self._epoch, self._position, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: ``epoch`` and ``position``, the number of batches handed out in it."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Makes the next pass start after the batches already handed out; after a whole epoch it starts afresh.

        Raises:
            RunError: If the epoch has fewer batches than the state says.
        """
        if not 0 <= state["position"] <= len(self):
            raise RunError(
                f"BatchLoader: expected a position in 0..{len(self)}, got {state['position']}; "
                "resume with the data and the batch size the run was started with"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._resume_at = self._position % len(self) if len(self) else 0

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.examples))
        return torch.from_numpy(np.random.default_rng((self.seed, self._epoch)).permutation(len(self.examples)))

    def _share(self, position: int) -> tuple[slice, float]:
        """Where in the order this process's share of a batch lies, and the weight of each of its examples."""
        first = position * self.batch_size
        end = min(first + self.batch_size, len(self.examples))
        if first + self.rank >= end:
            return slice(first, first + 1), 0.0
        return slice(first + self.rank, end, self.world_size), self.world_size / (end - first)


def real_rows(batch: Batch) -> slice:
    """The rows of a share that count: all, or none if it was empty.

    An empty share is filled with a single example, so nothing has to wait for the device to tell the weights of more.
    """
    return slice(None) if len(batch.weights) > 1 else slice(int(batch.weights.count_nonzero()))


def to_float(images: Tensor) -> Tensor:
    """Stored pixels as the currency of every later layer.

    Shapes:
        images: [B, 1 or 3, h, w] uint8 -> [B, 3, h, w] float32 in [0, 1]; gray is repeated as a view, so copy before
            writing to it.

    Raises:
        ShapeError: If the images are of another kind.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(
            f"to_float: expected uint8 [B, 1 or 3, h, w], got {images.dtype} {list(images.shape)}; convert it only once"
        )
    return (images.to(torch.float32) / 255.0).expand(-1, 3, -1, -1)
