"""The data sets of torchvision, fetched by it: CIFAR, SVHN, GTSRB, Flowers, DTD, EuroSAT, Pets, Food and others."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from numpy.typing import NDArray

from reprogram.data.base import Images, Rows, Table, TargetData, in_memory
from reprogram.data.labels import array_targets, pattern_groups
from reprogram.data.pixels import height_width, read_splits, stack_to_images
from reprogram.errors import ConfigError, DataError

_IMAGES = ("_image_files", "_images", "data")  # what torchvision's classes call files or an array, and their labels
_LABELS = ("targets", "labels", "_labels")
_PAIRS = ("samples", "_samples")  # of file and label


class TorchvisionData(TargetData):
    """A classification set of torchvision with the splits that it has; what is missing is carved out of ``train``.

    Ids are the files below ``root``, or split and row where a set is one array. Files are scaled and resized by the
    rules of `reprogram.data.pixels`, once; an array stays as it is.

    Args:
        name: Of the task.
        dataset: Class in ``torchvision.datasets``.
        splits: For each split that the class has (``train``, ``val``, ``test``) the arguments that choose it.
        root: Folder the library keeps its files in.
        by_hand: What to save in ``root`` where the library cannot fetch it.
        licence: Licence of the data.
        citation: How to cite the data.
        image_size: Side, or height and width, in pixels that every image is resized to.
        class_names: Names of the labels 0, 1, ... where the library has none, otherwise their order; ``None``: the
            library's.
        group_pattern: Regular expression found in an id, whose first group is what several images show, such as one
            traffic sign; ``None``: unknown, every image on its own.
        download: Whether the library fetches what is missing.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.

    Raises:
        ConfigError: If there is no such class, no split, or the size is invalid.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        splits: Mapping[str, Mapping[str, bool | str]],
        root: str,
        by_hand: str,
        licence: str,
        citation: str,
        image_size: int | Sequence[int] = 128,
        class_names: Sequence[str] | None = None,
        group_pattern: str | None = None,
        download: bool = True,
        skip_unreadable: bool = False,
        private: bool = False,
    ) -> None:
        if dataset not in torchvision.datasets.__all__:
            raise ConfigError(f"dataset: expected a class of torchvision.datasets, got '{dataset}'")
        if not splits:
            raise ConfigError("splits: expected the arguments of train and other splits, got none")
        self.name = name
        self.dataset = dataset
        self.splits = splits
        self.root = Path(root).expanduser()
        self.by_hand = by_hand
        self.image_size = height_width(image_size)
        self.class_names = class_names
        self.group_pattern = group_pattern
        self.licence = licence
        self.citation = citation
        self.download = download
        self.skip_unreadable = skip_unreadable
        self.private = private

    def table(self) -> Table:
        """Finds the images, fetched if need be.

        Raises:
            DataError: If files are missing and cannot be fetched.
            ConfigError: If the class refuses the arguments, has no labelled images, or is an array of another size.
        """
        parts = {split: self._loaded(arguments) for split, arguments in self.splits.items()}
        classes = getattr(next(iter(parts.values())), "classes", None)
        images, labels = zip(*(self._images_and_labels(part) for part in parts.values()), strict=True)
        rows = [(split, row) for split, part in zip(parts, labels, strict=True) for row in range(len(part))]
        if isinstance(images[0], np.ndarray):
            stack = stack_to_images(np.concatenate(images))
            if stack.shape[2:] != self.image_size:
                raise ConfigError(
                    f"image_size: {self.name} is an array of images {list(stack.shape[2:])}, got "
                    f"{list(self.image_size)}; program.size enlarges them"
                )
            ids = [f"{split}/{row}" for split, row in rows]
            read = in_memory(stack)
        else:
            paths = [Path(file) for part in images for file in part]
            ids = [path.relative_to(self.root).as_posix() for path in paths]
            read = partial(self._read, paths)
        targets, class_names = array_targets(np.concatenate(labels), classes, self.class_names, ids, str(self.root))
        return Table(
            name=self.name,
            class_names=class_names,
            targets=targets,
            ids=ids,
            read=read,
            groups=None if self.group_pattern is None else pattern_groups(ids, self.group_pattern),
            split=[split for split, _ in rows],
            private=self.private,
            licence=self.licence,
            citation=self.citation,
            origin=str(self.root),
        )

    def _loaded(self, arguments: Mapping[str, bool | str]) -> Any:
        try:
            return getattr(torchvision.datasets, self.dataset)(root=str(self.root), download=self.download, **arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"splits: {self.dataset} does not take {dict(arguments)} ({error})") from error
        except Exception as error:  # downloads, archives and their readers raise whatever they like
            raise DataError(
                f"{self.name}: incomplete in {self.root} and not fetched ({error}). Save there by hand: {self.by_hand}"
            ) from error

    def _images_and_labels(self, dataset: Any) -> tuple[list[str] | NDArray[Any], NDArray[np.int64]]:
        """The files or the pixels of one split, and its labels."""
        known = vars(dataset)
        pairs = next((known[key] for key in _PAIRS if key in known), None)
        if pairs is not None:
            return [file for file, _ in pairs], np.array([label for _, label in pairs])
        images = next((known[key] for key in _IMAGES if key in known), None)
        labels = next((known[key] for key in _LABELS if key in known), None)
        if images is None or labels is None:
            raise ConfigError(f"dataset: expected images with one label each, got '{self.dataset}'; use data=folder")
        if not isinstance(images, list):
            images = np.asarray(images)
            images = images.transpose(0, 2, 3, 1) if images.shape[1] == 3 else images  # SVHN has its channels second
        return images, np.asarray(labels)

    def _read(self, paths: Sequence[Path], rows: Mapping[str, Rows]) -> dict[str, tuple[Images, list[int]]]:
        return read_splits(paths, self.root, rows, self.image_size, self.skip_unreadable, self.name)
