"""The MedMNIST collection by name, through its own library (the extra ``medmnist``)."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reprogram.data.base import Table, TargetData, in_memory
from reprogram.data.labels import array_targets
from reprogram.data.npz_file import read_npz, split_ids, text_column
from reprogram.data.pixels import stack_to_images
from reprogram.errors import ConfigError, DataError

_SIZES = (28, 64, 128, 224)

_logger = logging.getLogger(__name__)


class MedMnistData(TargetData):
    """A two-dimensional, single-label MedMNIST set with its published splits.

    Args:
        name: Such as ``dermamnist``.
        size: Side of the images in pixels: 28, 64, 128 or 224.
        root: Folder the library keeps its files in; ``None``: its own default in the home folder.
        download: Whether the library checks the file and fetches it if missing or broken; false: take it as it is.
        path: A local ``.npz`` file to use instead; one that is not the published file of this name and size is used
            with a warning.
        class_names: Another order of the published class names (of two, the second is the positive one; as published,
            BreastMNIST's is "normal, benign"); ``None``: as published.
        private: Whether no target pixel may leave this machine.

    Raises:
        ConfigError: If the name or the size is unknown or the set is not single-label and two-dimensional.

    Reference:
        MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification,
        Yang et al., Scientific Data 2023.
    """

    def __init__(
        self,
        name: str,
        size: int = 28,
        root: str | None = None,
        download: bool = True,
        path: str | None = None,
        class_names: Sequence[str] | None = None,
        private: bool = False,
    ) -> None:
        self.name = name
        self.size = size
        self.info = _published_facts(name, size)
        self.flag = "" if size == 28 else f"_{size}"  # of file names and keys
        self.root = root
        self.download = download
        self.path = path
        self.class_names = class_names
        self.private = private

    def table(self) -> Table:
        """Reads the file, fetched if need be.

        Raises:
            DataError: If there is no file and it cannot be fetched, or it is broken.
        """
        path = self._fetched_file() if self.path is None else self._local_file(Path(self.path).expanduser())
        arrays = read_npz(path)
        if "split" not in arrays or "labels" not in arrays or "images" not in arrays:
            raise DataError(f"{path}: expected the arrays of a MedMNIST file, got {sorted(arrays)}; use data=npz")
        published = [self.info["label"][key] for key in sorted(self.info["label"], key=int)]
        split = text_column(arrays, "split", path) or ()
        ids = text_column(arrays, "ids", path) or split_ids(split)
        targets, class_names = array_targets(arrays["labels"], published, self.class_names, ids, str(path))
        return Table(
            name=self.name,
            class_names=class_names,
            targets=targets,
            ids=ids,
            read=in_memory(stack_to_images(arrays["images"])),
            split=split,
            origin=str(path),
            ordinal=self.info["task"] == "ordinal-regression",
            private=self.private,
            licence=self.info["license"],
            citation="Yang et al., MedMNIST v2, Scientific Data 2023, and the set's own source named there",
        )

    def _local_file(self, path: Path) -> Path:
        if path.is_file():  # what is none is refused where it is read
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "md5").hexdigest()
            if found != self.info[f"MD5{self.flag}"]:
                _logger.warning(
                    "%s: is not the published file of %s, size %d (md5 %s, published %s); results are not comparable",
                    *(path, self.name, self.size, found, self.info[f"MD5{self.flag}"]),
                )
        return path

    def _fetched_file(self) -> Path:
        import medmnist
        from medmnist.info import DEFAULT_ROOT

        root = Path(self.root or DEFAULT_ROOT).expanduser()
        file = root / f"{self.name}{self.flag}.npz"
        if not self.download:
            return file
        try:  # the library keeps a file whose checksum is right and replaces a broken one
            root.mkdir(parents=True, exist_ok=True)
            getattr(medmnist, self.info["python_class"])(split="test", root=str(root), size=self.size, download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.name}: the download failed ({error}). Fetch {self.info[f'url{self.flag}']} by hand and save it "
                f"as {file}, or set data.path to a local copy"
            ) from error
        return file


def _published_facts(name: str, size: int) -> dict[str, Any]:
    try:
        from medmnist import INFO
    except ImportError as error:
        raise ConfigError("data=medmnist needs the library: pip install 'reprogram[medmnist]'") from error
    usable = [key for key, facts in INFO.items() if not key.endswith("3d") and "multi-label" not in facts["task"]]
    if name not in usable:
        reason = "is no MedMNIST set"
        if name in INFO:
            reason = "is three-dimensional" if name.endswith("3d") else "has several labels an image"
        raise ConfigError(
            f"name: {name!r} {reason}; a task is images of one label each. Choose one of {usable}, or save images and "
            "labels (of several, one finding) as a .npz file and use data=npz"
        )
    if size not in _SIZES:
        raise ConfigError(f"size: expected one of {list(_SIZES)}, got {size}")
    facts: dict[str, Any] = INFO[name]
    return facts
