"""Target data in folders named after the classes."""

import logging
from collections.abc import Sequence
from pathlib import Path

from reprogram.data.base import SPLITS, Table, TargetData
from reprogram.data.labels import name_targets, pattern_groups
from reprogram.data.pixels import IMAGE_SUFFIXES, files_below, height_width, read_splits
from reprogram.errors import DataError

_SPLIT_OF = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {
    name: name for name in SPLITS
}

_logger = logging.getLogger(__name__)


class FolderData(TargetData):
    """Image files under ``path/{train,val,test}/CLASS/`` or ``path/CLASS/``, at any depth below the class.

    With the first layout ``train`` must exist; a missing ``val`` or ``test`` is carved out of it. Ids are the paths
    below ``path``; links are followed. Files are scaled and resized by the rules of `reprogram.data.pixels`.

    Args:
        path: The folder.
        image_size: Side, or height and width, in pixels that every image is resized to.
        name: Name of the task; ``None``: the folder's.
        class_names: Order of the classes (of two, the second is the positive one); ``None``: sorted.
        group_pattern: Regular expression found in an id, whose first group is the patient, lesion or subject;
            ``None``: unknown, every image on its own.
        skip_unreadable: Whether to leave out broken files with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.
        ordinal: Whether the classes are grades.
        licence: Licence of the data.
        citation: How to cite the data.
    """

    def __init__(
        self,
        path: str,
        image_size: int | Sequence[int] = 128,
        name: str | None = None,
        class_names: Sequence[str] | None = None,
        group_pattern: str | None = None,
        skip_unreadable: bool = False,
        private: bool = True,
        ordinal: bool = False,
        licence: str = "unknown",
        citation: str = "unknown",
    ) -> None:
        self.path = Path(path).expanduser()
        self.image_size = height_width(image_size)
        self.name = name or self.path.resolve().name
        self.class_names = class_names
        self.group_pattern = group_pattern
        self.skip_unreadable = skip_unreadable
        self.private = private
        self.ordinal = ordinal
        self.licence = licence
        self.citation = citation

    def table(self) -> Table:
        """Finds the files.

        Raises:
            DataError: If there are no images, or none of a class, or a folder is named nearly like a split.
            ConfigError: If the pattern is invalid or does not fit an id.
        """
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; give a folder with one subfolder per class")
        folders = _folders(self.path)
        wrong = [name for name in folders if name not in SPLITS and name.lower() in _SPLIT_OF]
        if wrong:
            raise DataError(f"{self.path}: rename {wrong[0]} to {_SPLIT_OF[wrong[0].lower()]}, as splits are called")
        has_splits = any(name in SPLITS for name in folders)
        ids = self._image_ids("SPLIT/CLASS/FILE" if has_splits else "CLASS/FILE")
        places = [name.split("/") for name in ids]
        given = [parts[0] for parts in places] if has_splits else None
        labels = [parts[int(has_splits)] for parts in places]
        if has_splits:
            folders = [f"{split}/{name}" for split in SPLITS for name in _folders(self.path / split)]
        empty = sorted(set(folders) - {"/".join(parts[: 1 + has_splits]) for parts in places})
        if empty:
            raise DataError(f"{self.path}: no images in the class folders {empty[:5]}; fill or remove them")
        targets, class_names = name_targets(labels, self.class_names, ids, origin=str(self.path))
        paths = [self.path / name for name in ids]
        return Table(
            name=self.name,
            class_names=class_names,
            targets=targets,
            ids=ids,
            read=lambda rows: read_splits(paths, self.path, rows, self.image_size, self.skip_unreadable, self.name),
            groups=None if self.group_pattern is None else pattern_groups(ids, self.group_pattern),
            split=given,
            ordinal=self.ordinal,
            private=self.private,
            licence=self.licence,
            citation=self.citation,
            origin=str(self.path),
        )

    def _image_ids(self, layout: str) -> list[str]:
        files = [file.relative_to(self.path) for file in files_below(self.path)]
        images, others = [], []
        for file in files:
            if file.suffix.lower() in IMAGE_SUFFIXES and file.as_posix().count("/") >= layout.count("/"):
                images.append(file.as_posix())
            elif not file.name.startswith("."):
                others.append(file.as_posix())
        if others:
            _logger.warning(
                "%s: ignored %d files that are not %s images: %s", self.path, len(others), layout, others[:5]
            )
        if not images:
            raise DataError(f"{self.path}: expected images at {layout} ({sorted(IMAGE_SUFFIXES)}), got none")
        return images


def _folders(path: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones aside."""
    found = path.iterdir() if path.is_dir() else ()
    return sorted(entry.name for entry in found if entry.is_dir() and not entry.name.startswith("."))
