"""Reading NumPy archives without unpickling, with errors that name the file and the key."""

import zipfile
import zlib
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprogram.data.base import SPLITS
from reprogram.errors import DataError

Arrays = dict[str, NDArray[Any]]


def read_npz(path: Path) -> Arrays:
    """All arrays of a ``.npz`` file; the six arrays of a MedMNIST file as ``images``, ``labels``, ``split``, ``ids``.

    Raises:
        DataError: If the file is missing, broken or holds Python objects, or a MedMNIST split is incomplete.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give the path of a .npz file") from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: expected a .npz file of plain arrays, got: {error}; write it with numpy.savez and no objects"
        ) from error
    return _join_splits(arrays, path) if "train_images" in arrays else arrays


def first_key(arrays: Arrays, keys: Sequence[str]) -> str | None:
    """The first of the keys that the file has, or ``None``."""
    return next((key for key in keys if key in arrays), None)


def text_column(arrays: Arrays, key: str | None, path: Path) -> tuple[str, ...] | None:
    """A one-dimensional array as text, or ``None`` if the file has none.

    Raises:
        DataError: If it has another number of dimensions, or bytes that are no ASCII.
    """
    if key is None or key not in arrays:
        return None
    if arrays[key].ndim != 1:
        raise DataError(f"{path}: expected {key} [N], got {list(arrays[key].shape)}")
    try:
        return tuple(arrays[key].astype(str).tolist())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected {key} as text, got bytes beyond ASCII; store it as str") from error


def split_ids(split: Sequence[str]) -> tuple[str, ...]:
    """Split of each row and its place in it, such as ``test/0``."""
    places = {name: count() for name in split}
    return tuple(f"{name}/{next(places[name])}" for name in split)


def _join_splits(arrays: Arrays, path: Path) -> Arrays:
    missing = [key for name in SPLITS for key in (f"{name}_images", f"{name}_labels") if key not in arrays]
    if missing:
        raise DataError(f"{path}: expected the six arrays of a MedMNIST file, {missing} are missing")
    counts = [len(arrays[f"{name}_images"]) for name in SPLITS]
    for what in ("images", "labels"):
        shapes = {arrays[f"{name}_{what}"].shape[1:] for name in SPLITS}
        if len(shapes) > 1:
            raise DataError(f"{path}: expected {what} of one shape in all splits, got {sorted(shapes)}")
    split = np.repeat(SPLITS, counts)
    return {
        "images": np.concatenate([arrays[f"{name}_images"] for name in SPLITS]),
        "labels": np.concatenate([arrays[f"{name}_labels"] for name in SPLITS]),
        "split": split,
        "ids": np.array(split_ids(split.tolist())),
    }
