"""Skin lesions under the dermatoscope, as published: HAM10000, and the ISIC challenges of 2018 (task 3) and 2019.

Classes go by their short names in alphabetical order: ``ak`` actinic keratosis; ``akiec`` the same together with
intraepithelial carcinoma (Bowen's disease); ``bcc`` basal cell carcinoma; ``bkl`` benign keratosis (solar lentigo,
seborrhoeic and lichen-planus-like keratosis); ``df`` dermatofibroma; ``mel`` melanoma; ``nv`` melanocytic nevus;
``scc`` squamous cell carcinoma; ``vasc`` vascular lesion. Photographs of one lesion stay in one split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from reprogram.data.base import Table, TargetData
from reprogram.data.csv_images import read_columns
from reprogram.data.labels import first_ids, name_targets
from reprogram.data.npz import NpzData
from reprogram.data.pixels import files_below, height_width, read_splits
from reprogram.errors import ConfigError, DataError

_LICENCE = "CC BY-NC 4.0"
_HAM = "Tschandl, Rosendahl, Kittler, The HAM10000 dataset, Scientific Data 5, 180161, 2018"
_HAM_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


class _Challenge(NamedTuple):
    truth: str
    lesions: str
    class_names: tuple[str, ...]
    attributes: Mapping[str, str]
    citation: str


_CHALLENGES = {
    2018: _Challenge(
        truth="ISIC2018_Task3_Training_GroundTruth.csv",
        lesions="ISIC2018_Task3_Training_LesionGroupings.csv",
        class_names=_HAM_CLASSES,
        attributes={},
        citation=f"{_HAM}; Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018, arXiv 1902.03368",
    ),
    2019: _Challenge(
        truth="ISIC_2019_Training_GroundTruth.csv",
        lesions="ISIC_2019_Training_Metadata.csv",
        class_names=("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc"),
        attributes={"age": "age_approx", "sex": "sex", "location": "anatom_site_general"},
        citation=f"BCN_20000: Department of Dermatology, Hospital Clinic de Barcelona; {_HAM}; "
        "MSK: Codella et al., arXiv 1710.05006 and 1902.03368",
    ),
}


class Ham10000Data(TargetData):
    """The 10,015 images of HAM10000, or a ``.npz`` file with some of them.

    Args:
        path: Folder with ``HAM10000_metadata.csv`` (or without the suffix) and the images ``<image_id>.jpg``, at any
            depth; or a ``.npz`` file, see `reprogram.data.npz`.
        image_size: Side, or height and width, in pixels that every image is resized to; those of a ``.npz`` file stay
            as they are.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.
    """

    def __init__(
        self, path: str, image_size: int | Sequence[int] = 128, skip_unreadable: bool = False, private: bool = False
    ) -> None:
        self.path = Path(path).expanduser()
        self.image_size = height_width(image_size)
        self.skip_unreadable = skip_unreadable
        self.private = private

    def table(self) -> Table:
        """Reads the metadata.

        Raises:
            DataError: If the folder is another one, or its table does not fit.
        """
        if self.path.suffix == ".npz":
            file = NpzData(str(self.path), "ham10000", private=self.private, licence=_LICENCE, citation=_HAM)
            return file.table()
        files = _files(self.path)
        metadata = files.get("HAM10000_metadata.csv") or files.get("HAM10000_metadata")
        if metadata is None:
            raise DataError(
                f"{self.path}: expected HAM10000_metadata.csv; fetch it and the images by hand from "
                "https://doi.org/10.7910/DVN/DBW86T and unpack them there"
            )
        columns = read_columns(metadata, ["image_id", "lesion_id", "dx"], ["age", "sex", "localization"])
        attributes = {"age": columns["age"], "sex": columns["sex"], "location": columns["localization"]}
        images = _Images(metadata, columns["image_id"], columns["dx"], columns["lesion_id"], attributes)
        return _table(self, "ham10000", _HAM_CLASSES, images, files, _HAM)


class IsicData(TargetData):
    """The labelled images of an ISIC challenge: task 3 of 2018 (10,015 images, 7 classes) or 2019 (25,331, 8 classes).

    The folder holds the images ``<image>.jpg`` and the tables, at any depth:

    - 2018: ``ISIC2018_Task3_Training_GroundTruth.csv`` and ``ISIC2018_Task3_Training_LesionGroupings.csv``;
    - 2019: ``ISIC_2019_Training_GroundTruth.csv`` and ``ISIC_2019_Training_Metadata.csv``. An image without a lesion id
      is a lesion of its own. The class UNK (none of the others) is left out: only test images have it.

    Args:
        path: The folder.
        year: 2018 or 2019.
        image_size: Side, or height and width, in pixels that every image is resized to.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.

    Raises:
        ConfigError: If it is another year.
    """

    def __init__(
        self,
        path: str,
        year: int = 2019,
        image_size: int | Sequence[int] = 128,
        skip_unreadable: bool = False,
        private: bool = False,
    ) -> None:
        if year not in _CHALLENGES:
            raise ConfigError(f"year: expected one of {list(_CHALLENGES)}, got {year}")
        self.path = Path(path).expanduser()
        self.year = year
        self.image_size = height_width(image_size)
        self.skip_unreadable = skip_unreadable
        self.private = private

    def table(self) -> Table:
        """Reads the tables.

        Raises:
            DataError: If the folder is another one, its tables do not fit together, or an image has not one class.
        """
        facts, files = _CHALLENGES[self.year], _files(self.path)
        missing = [name for name in (facts.truth, facts.lesions) if name not in files]
        if missing:
            raise DataError(
                f"{self.path}: expected {missing}; fetch them and the images by hand from "
                f"https://challenge.isic-archive.com/data/#{self.year} and unpack them there"
            )
        truth, metadata = files[facts.truth], files[facts.lesions]
        ids, labels = _one_hot(truth, facts.class_names)
        columns = read_columns(metadata, ["image"], ["lesion_id", *facts.attributes.values()])
        place = {name: row for row, name in enumerate(columns["image"])}
        _refuse_rest(truth, set(ids) - set(place), metadata)
        _refuse_rest(metadata, set(place) - set(ids), truth)
        joined = {key: [cells[place[name]] for name in ids] for key, cells in columns.items()}
        lesions = [lesion or name for lesion, name in zip(joined["lesion_id"], ids, strict=True)]
        attributes = {name: joined[column] for name, column in facts.attributes.items()}
        images = _Images(truth, ids, labels, lesions, attributes)
        return _table(self, f"isic{self.year}", facts.class_names, images, files, facts.citation)


class _Images(NamedTuple):
    origin: Path
    ids: Sequence[str]
    labels: Sequence[str]
    lesions: Sequence[str]
    attributes: Mapping[str, Sequence[str]]


def _files(folder: Path) -> dict[str, Path]:
    """The files below a folder by name; of several the first in alphabetical order."""
    return {file.name: file for file in reversed(files_below(folder))}


def _one_hot(path: Path, class_names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ids and class names of a table with one column a class, 1 in one of them."""
    columns = read_columns(path, ["image", *map(str.upper, class_names)])
    ids = columns["image"]
    marked = [[name for name in class_names if columns[name.upper()][row] in ("1", "1.0")] for row in range(len(ids))]
    wrong = [row for row, names in enumerate(marked) if len(names) != 1]
    if wrong:
        raise DataError(
            f"{path}: expected 1 in one of the columns {list(map(str.upper, class_names))}, "
            f"got none or several in {first_ids(wrong, ids)}; drop or correct them"
        )
    return ids, [names[0] for names in marked]


def _refuse_rest(path: Path, ids: set[str], other: Path) -> None:
    if ids:
        raise DataError(
            f"{path}: {first_ids(range(len(ids)), sorted(ids))} are not in {other}; fetch both tables again"
        )


def _table(
    leaf: Ham10000Data | IsicData,
    task: str,
    class_names: Sequence[str],
    images: _Images,
    files: Mapping[str, Path],
    citation: str,
) -> Table:
    targets, names = name_targets(images.labels, class_names, images.ids, origin=str(images.origin))
    paths = [files.get(f"{name}.jpg", leaf.path / f"{name}.jpg") for name in images.ids]
    return Table(
        name=task,
        class_names=names,
        targets=targets,
        ids=images.ids,
        read=lambda rows: read_splits(paths, leaf.path, rows, leaf.image_size, leaf.skip_unreadable, task),
        groups=images.lesions,
        attributes={
            name: ["" if cell == "unknown" else cell for cell in cells] for name, cells in images.attributes.items()
        },
        private=leaf.private,
        licence=_LICENCE,
        citation=citation,
        origin=str(images.origin),
    )
