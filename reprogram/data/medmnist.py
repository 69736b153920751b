"""The MedMNIST collection by name, through its own library (the extra ``medmnist``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reprogram.data.base import SPLITS, TargetData, TaskData, pick_examples
from reprogram.data.labels import array_targets
from reprogram.data.npz_file import read_npz
from reprogram.data.pixels import stack_to_images
from reprogram.data.splits import plan_rows
from reprogram.errors import ConfigError, DataError
from reprogram.types import TaskSpec

_SIZES = (28, 64, 128, 224)


class MedMnistData(TargetData):
    """A two-dimensional, single-label MedMNIST set with its published splits.

    Args:
        name: Such as ``dermamnist``.
        size: Side of the images in pixels: 28, 64, 128 or 224.
        root: Folder the library keeps its files in; ``None``: its own default in the home folder.
        download: Whether the library checks the file and fetches it if missing or broken; false: take it as it is.
        path: A local ``.npz`` file to use instead.
        class_names: Another order of the published class names (of two, the second is the positive one; as published,
            BreastMNIST's is "normal, benign"); ``None``: as published.
        split_seed: Of the choice under a maximum.
        max_train: At most so many training examples, a stratified choice; ``None``: all.
        max_val: The same for ``val``.
        max_test: The same for ``test``.
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
        split_seed: int = 0,
        max_train: int | None = None,
        max_val: int | None = None,
        max_test: int | None = None,
        private: bool = False,
    ) -> None:
        self.name = name
        self.size = size
        self.info = _published_facts(name, size)
        self.root = root
        self.download = download
        self.path = path
        self.class_names = class_names
        self.split_seed = split_seed
        self.max_train = max_train
        self.max_val = max_val
        self.max_test = max_test
        self.private = private

    def load(self) -> TaskData:
        """Reads the file, fetched if need be.

        Raises:
            DataError: If there is no file and it cannot be fetched, or it is broken.
        """
        path = self._fetched_file() if self.path is None else Path(self.path).expanduser()
        arrays = read_npz(path)
        if "split" not in arrays or "labels" not in arrays or "images" not in arrays:
            raise DataError(f"{path}: expected the arrays of a MedMNIST file, got {sorted(arrays)}; use data=npz")
        published = [self.info["label"][key] for key in sorted(self.info["label"], key=int)]
        targets, class_names = array_targets(arrays["labels"], published, self.class_names)
        rows = plan_rows(
            targets,
            None,
            arrays["split"].tolist(),
            val_fraction=0.0,
            test_fraction=0.0,
            max_train=self.max_train,
            max_val=self.max_val,
            max_test=self.max_test,
            seed=self.split_seed,
        )
        images = {name: stack_to_images(arrays["images"][rows[name]]) for name in SPLITS}
        ids = arrays["ids"].tolist()
        return TaskData(
            spec=TaskSpec(
                name=self.name,
                class_names=class_names,
                image_size=(images["train"].shape[2], images["train"].shape[3]),
                ordinal=self.info["task"] == "ordinal-regression",
                private=self.private,
                licence=self.info["license"],
                citation="Yang et al., MedMNIST v2, Scientific Data 2023, and the set's own source named there",
            ),
            splits={
                name: pick_examples(images[name], rows[name].tolist(), torch.from_numpy(targets), ids, None)
                for name in SPLITS
            },
        )

    def _fetched_file(self) -> Path:
        import medmnist
        from medmnist.info import DEFAULT_ROOT

        root = Path(self.root or DEFAULT_ROOT).expanduser()
        flag = "" if self.size == 28 else f"_{self.size}"
        file = root / f"{self.name}{flag}.npz"
        if not self.download:
            return file
        root.mkdir(parents=True, exist_ok=True)
        try:  # the library keeps a file whose checksum is right and replaces a broken one
            getattr(medmnist, self.info["python_class"])(split="test", root=str(root), size=self.size, download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.name}: the download failed. Fetch {self.info[f'url{flag}']} by hand and save it as {file}, "
                "or set data.path to a local copy"
            ) from error
        return file


def _published_facts(name: str, size: int) -> dict[str, Any]:
    try:
        from medmnist import INFO
    except ImportError as error:
        raise ConfigError("data=medmnist needs the library: pip install 'reprogram[medmnist]'") from error
    usable = [key for key, facts in INFO.items() if not key.endswith("3d") and "multi-label" not in facts["task"]]
    if name not in usable:
        kind = "is no MedMNIST set"
        if name in INFO:
            kind = "is three-dimensional" if name.endswith("3d") else "has several labels an image"
        raise ConfigError(f"name: {name!r} {kind}, which is not supported; choose one of {usable}")
    if size not in _SIZES:
        raise ConfigError(f"size: expected one of {list(_SIZES)}, got {size}")
    facts: dict[str, Any] = INFO[name]
    return facts
