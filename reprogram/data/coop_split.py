"""Image sets in the few-shot literature's splits: a JSON file of CoOp beside a folder of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from reprogram.data.base import Table, TargetData
from reprogram.data.labels import array_targets
from reprogram.data.pixels import height_width, read_splits
from reprogram.errors import DataError

_Splits = dict[Literal["train", "val", "test"], list[tuple[str, int, str]]]


class CoopSplitData(TargetData):
    """A ``split_zhou_*.json`` file: for train, val and test a list of [path of an image, label, class name].

    Ids are the paths. Files are scaled and resized by the rules of `reprogram.data.pixels`, once.

    Args:
        path: The JSON file.
        image_dir: Folder that its paths are relative to.
        name: Of the task.
        by_hand: Where to get both.
        licence: Licence of the data.
        citation: How to cite the data.
        image_size: Side, or height and width, in pixels that every image is resized to.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.

    Reference:
        Learning to Prompt for Vision-Language Models (CoOp), Zhou, Yang, Loy, Liu, IJCV 2022, arXiv:2109.01134.
    """

    def __init__(
        self,
        path: str,
        image_dir: str,
        name: str,
        by_hand: str,
        licence: str,
        citation: str,
        image_size: int | Sequence[int] = 128,
        skip_unreadable: bool = False,
        private: bool = False,
    ) -> None:
        self.path = Path(path).expanduser()
        self.image_dir = Path(image_dir).expanduser()
        self.name = name
        self.by_hand = by_hand
        self.licence = licence
        self.citation = citation
        self.image_size = height_width(image_size)
        self.skip_unreadable = skip_unreadable
        self.private = private

    def table(self) -> Table:
        """Reads the JSON file.

        Raises:
            DataError: If the file or the folder is missing, the file is of another form, or a label has two names.
        """
        absent = [str(place) for place in (self.path, self.image_dir) if not place.exists()]
        if absent:
            raise DataError(f"{', '.join(absent)}: not there. Get by hand: {self.by_hand}")
        try:
            splits = TypeAdapter(_Splits).validate_json(self.path.read_bytes())
        except OSError as error:
            raise DataError(f"{self.path}: the JSON file cannot be read ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = " ".join(map(str, first["loc"]))
            raise DataError(
                f"{self.path}: expected train, val and test, each a list of [path, label, class name]; "
                f"got at '{place}': {first['msg']}"
            ) from error
        entries = [entry for part in splits.values() for entry in part]
        pairs = sorted({(label, class_name) for _, label, class_name in entries})
        if any(len({pair[side] for pair in pairs}) < len(pairs) for side in (0, 1)):
            raise DataError(f"{self.path}: expected one class name for each label, got the pairs {pairs}")
        ids = [image for image, _, _ in entries]
        labels, names = np.array([label for _, label, _ in entries]), [class_name for _, class_name in pairs]
        targets, class_names = array_targets(labels, names, None, ids, str(self.path))
        paths = [self.image_dir / image for image in ids]
        return Table(
            name=self.name,
            class_names=class_names,
            targets=targets,
            ids=ids,
            read=lambda rows: read_splits(
                paths, self.image_dir, rows, self.image_size, self.skip_unreadable, self.name
            ),
            split=[split for split, part in splits.items() for _ in part],
            private=self.private,
            licence=self.licence,
            citation=self.citation,
            origin=str(self.path),
        )
