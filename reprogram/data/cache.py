"""Images are decoded and resized once, into a file that is mapped into memory and checked row by row.

A cache is a folder below ``$REPROGRAM_CACHE`` (default ``~/.cache/reprogram``), readable by its owner only; it may be
deleted at any time. Its name is made of the task's and a hash of the names of all rows and of the image size. In it lie
``images``, the bytes of uint8 [N, 3, h, w] in a sparse file; ``checksums``, int64 [N]: one more than the CRC-32 of a
row's pixels, or 0 for a row that is still to be decoded; and ``states``, int64 [N]: a hash of what a row was decoded
from, so that of a data set in which a few files change only these are decoded again.
"""

import fcntl
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from reprogram.data.base import ImageRows, Images, Rows
from reprogram.errors import DataError

_VERSION = 2  # of this layout, and of the rules in `reprogram.data.pixels`
_CHUNK = 200  # rows that are lost, at most, when the process is killed
_THREADS = 4

_logger = logging.getLogger(__name__)


def cached_splits(
    name: str,
    keys: Sequence[str],
    states: Sequence[str],
    decode: Callable[[int], Tensor],
    image_size: tuple[int, int],
    rows: Mapping[str, Rows],
    skip_unreadable: bool = False,
) -> dict[str, tuple[Images, list[int]]]:
    """The images of each split; only rows that no earlier call has decoded are decoded.

    Several processes may share a cache: one decodes at a time. A row whose state is another one, or whose pixels no
    longer fit their checksum, is decoded again. An image that cannot be read is not remembered, so the next call tries
    it again.

    Args:
        name: Of the task.
        keys: What each row of the table is called, the same in no other data set: the full path of a file.
        states: What changes when a row's pixels may have: size and times of a file.
        decode: Gives the image of a row, uint8 [3, h, w], or raises a DataError; several threads call it at once.
        image_size: Height and width in pixels.
        rows: Rows of each split.
        skip_unreadable: Whether to leave out unreadable images (with a logged warning) instead of refusing.

    Returns:
        For each split the images, mapped into memory, and the rows they belong to.

    Raises:
        DataError: If images cannot be read and may not be skipped (all are counted, the first are named), or the cache
            cannot be written.
    """
    facts = repr((_VERSION, image_size, list(keys))).encode()
    label = f"{re.sub('[^a-zA-Z0-9_.-]+', '_', name)}-{hashlib.blake2b(facts, digest_size=8).hexdigest()}"
    folder = Path(os.environ.get("REPROGRAM_CACHE") or "~/.cache/reprogram").expanduser() / label
    wanted = sorted({row for part in rows.values() for row in part.tolist()})
    try:
        stack, unreadable = _filled(folder, states, image_size, decode, wanted)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write the cache of decoded images ({error.strerror}); "
            "set the environment variable REPROGRAM_CACHE to a folder with room"
        ) from error
    if unreadable:
        summary = f"{len(unreadable)} of {len(wanted)} image files cannot be read:\n  "
        summary += "\n  ".join(list(unreadable.values())[:5]) + ("\n  ..." if len(unreadable) > 5 else "")
        if not skip_unreadable:
            raise DataError(f"{summary}\nRepair or remove them, or set data.skip_unreadable=true to go on.")
        _logger.warning("skipped: %s", summary)
    kept = {split: [row for row in part.tolist() if row not in unreadable] for split, part in rows.items()}
    return {split: (ImageRows(stack, torch.tensor(part, dtype=torch.int64)), part) for split, part in kept.items()}


def _filled(
    folder: Path,
    states: Sequence[str],
    image_size: tuple[int, int],
    decode: Callable[[int], Tensor],
    wanted: Sequence[int],
) -> tuple[Tensor, dict[int, str]]:
    """The stack with the wanted rows decoded, and what is wrong with those that cannot be."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the pixels may be a patient's
    folder.mkdir(mode=0o700, exist_ok=True)
    shape = (3, *image_size)
    stack = _mapped(folder / "images", np.uint8, (len(states), *shape))
    checksums = _mapped(folder / "checksums", np.int64, (len(states),))
    known = _mapped(folder / "states", np.int64, (len(states),))
    current = np.array([_hash(state) for state in states])

    def lacking(rows: Sequence[int]) -> list[int]:
        kept = (checksums != 0) & (known == current)
        return [row for row in rows if not kept[row] or checksums[row] != zlib.crc32(stack[row]) + 1]

    unreadable: dict[int, str] = {}
    missing = lacking(wanted)
    if missing:
        with _lock(folder / "lock"), (folder / "images").open("r+b") as file:
            missing = lacking(missing)  # those that another process has not decoded meanwhile
            again = np.count_nonzero(checksums[missing])
            if again:
                _logger.warning("%s: %d images have changed or are damaged, and are decoded again", folder, again)
            for results in _decoded(decode, missing):
                written = {}
                for row, pixels in results:
                    if isinstance(pixels, str):
                        unreadable[row] = pixels
                        continue
                    assert pixels.dtype == torch.uint8
                    assert pixels.shape == shape
                    data = pixels.numpy().tobytes()
                    file.seek(row * len(data))
                    file.write(data)  # not through the map: there a full disk would kill the process
                    written[row] = zlib.crc32(data) + 1
                file.flush()
                os.fsync(file.fileno())
                known[list(written)] = current[list(written)]  # only now: these pixels have reached the disk
                checksums[list(written)] = list(written.values())
    return torch.from_numpy(stack), unreadable


def _decoded(decode: Callable[[int], Tensor], rows: Sequence[int]) -> Iterator[list[tuple[int, Tensor | str]]]:
    """Rows with their pixels, or what is wrong with them, a few hundred at a time."""

    def attempt(row: int) -> tuple[int, Tensor | str]:
        try:
            return row, decode(row)
        except (DataError, OSError) as error:
            return row, str(error)

    quiet = None if len(rows) > _CHUNK else True  # None: only where there is no terminal
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(total=len(rows), desc="decoding", unit="image", disable=quiet) as progress,
    ):
        for start in range(0, len(rows), _CHUNK):
            results = list(pool.map(attempt, rows[start : start + _CHUNK]))
            progress.update(len(results))
            yield results


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def _mapped(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """A file of zeros that is mapped into memory; what an existing one lacks is added.

    Mapped shared (``r+``) rather than copy-on-write, which counts as memory and is refused beyond its size.
    """
    with path.open("ab") as file:
        file.truncate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+", shape=shape)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("%s: another process is decoding; waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
