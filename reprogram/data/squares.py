"""The square-counting task of the first reprogramming paper, drawn from a seed."""

import numpy as np
from numpy.typing import NDArray

from reprogram.data.base import SPLITS, Table, TargetData, in_memory
from reprogram.data.pixels import stack_to_images
from reprogram.errors import ConfigError

_CELL, _GRID, _CLASSES = 9, 4, 10


class SquaresData(TargetData):
    """Black images of 36 x 36 pixels with 1 to 10 white squares on a 4 x 4 grid; the class is their number.

    A square is 9 x 9 pixels with a black frame of one pixel. Counts are equally frequent. There are only 16 images
    with one square, so equal images occur within and across splits.

    Args:
        num_train: Training images, at least one of each class.
        num_val: Images in ``val``.
        num_test: Images in ``test``.
        seed: Of the drawing, >= 0.
        private: Whether no target pixel may leave this machine.

    Raises:
        ConfigError: If a split has fewer images than classes or the seed is negative.

    Reference:
        Adversarial Reprogramming of Neural Networks, Elsayed, Goodfellow, Sohl-Dickstein, ICLR 2019, arXiv 1806.11146,
        section 4.1. The paper draws fresh images for ever; here the splits are finite.
    """

    def __init__(
        self, num_train: int = 2000, num_val: int = 500, num_test: int = 1000, seed: int = 0, private: bool = False
    ) -> None:
        if min(num_train, num_val, num_test) < _CLASSES:
            raise ConfigError(
                f"squares: expected at least {_CLASSES} images a split, one of each class, "
                f"got {num_train}, {num_val} and {num_test}"
            )
        if seed < 0:
            raise ConfigError(f"squares: expected a seed of at least 0, got {seed}")
        self.counts = (num_train, num_val, num_test)
        self.seed = seed
        self.private = private

    def table(self) -> Table:
        """Draws the images."""
        drawn = [self._draw(count, stream) for stream, count in enumerate(self.counts)]
        return Table(
            name="squares",
            class_names=tuple(str(count) for count in range(1, _CLASSES + 1)),
            targets=np.concatenate([targets for _, targets in drawn]),
            ids=[f"{name}/{row}" for name, count in zip(SPLITS, self.counts, strict=True) for row in range(count)],
            read=in_memory(stack_to_images(np.concatenate([images for images, _ in drawn]))),
            split=np.repeat(SPLITS, self.counts).tolist(),
            repeats=True,
            ordinal=True,
            private=self.private,
            licence="generated here, free to use",
            citation="Elsayed, Goodfellow, Sohl-Dickstein, Adversarial Reprogramming of Neural Networks, ICLR 2019",
        )

    def _draw(self, count: int, stream: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        generator = np.random.default_rng((self.seed, stream))
        targets = generator.permutation(np.arange(count) % _CLASSES)
        places = np.argsort(generator.random((count, _GRID * _GRID)), axis=1)
        occupied = np.empty((count, _GRID * _GRID), dtype=np.uint8)
        np.put_along_axis(occupied, places, (np.arange(_GRID * _GRID) <= targets[:, None]).astype(np.uint8), axis=1)
        square = np.zeros((_CELL, _CELL), dtype=np.uint8)
        square[1:-1, 1:-1] = 255
        return np.kron(occupied.reshape(count, _GRID, _GRID), square[None]), targets
