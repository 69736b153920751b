"""The two competitions in grading diabetic retinopathy from photographs of the eye, as Kaggle hands them out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from reprogram.data.base import Table, TargetData
from reprogram.data.csv_images import CsvData
from reprogram.errors import ConfigError, DataError

_GRADES: Mapping[str | int, str] = {0: "no DR", 1: "mild", 2: "moderate", 3: "severe", 4: "proliferative"}


class _Competition(NamedTuple):
    page: str
    table: str
    columns: tuple[str, str]
    image_dir: str
    suffix: str
    group_pattern: str | None
    citation: str


_COMPETITIONS = {
    "aptos2019": _Competition(
        page="https://www.kaggle.com/competitions/aptos2019-blindness-detection/data",
        table="train.csv",
        columns=("id_code", "diagnosis"),
        image_dir="train_images",
        suffix=".png",
        group_pattern=None,
        citation="Asia Pacific Tele-Ophthalmology Society, APTOS 2019 Blindness Detection, Kaggle 2019",
    ),
    "eyepacs": _Competition(
        page="https://www.kaggle.com/competitions/diabetic-retinopathy-detection/data",
        table="trainLabels.csv",
        columns=("image", "level"),
        image_dir="train",
        suffix=".jpeg",
        group_pattern=r"^(\d+)_(?:left|right)$",
        citation="Cuadros, Bresnick, EyePACS, Journal of Diabetes Science and Technology 2009; "
        "Diabetic Retinopathy Detection, Kaggle 2015",
    ),
}


class FundusData(TargetData):
    """Photographs of eyes, graded 0 to 4; of the competition's files only those with labels, which are split here.

    - ``aptos2019``: ``train.csv`` (id_code, diagnosis) and ``train_images/<id_code>.png``, 3,662 photographs. The
      patients are not known.
    - ``eyepacs``: ``trainLabels.csv`` (image, level) and ``train/<image>.jpeg``, 35,126 photographs. The image is named
      ``<patient>_left`` or ``<patient>_right``, and both eyes of a patient stay in one split.

    Args:
        path: The folder with these files.
        competition: ``aptos2019`` or ``eyepacs``.
        image_size: Side, or height and width, in pixels that every image is resized to.
        skip_unreadable: Whether to leave out missing and broken images with a warning instead of refusing them.
        private: Whether no target pixel may leave this machine.

    Raises:
        ConfigError: If the competition is another one.
    """

    def __init__(
        self,
        path: str,
        competition: str = "aptos2019",
        image_size: int | Sequence[int] = 128,
        skip_unreadable: bool = False,
        private: bool = True,
    ) -> None:
        if competition not in _COMPETITIONS:
            raise ConfigError(f"competition: expected one of {list(_COMPETITIONS)}, got {competition!r}")
        facts = _COMPETITIONS[competition]
        self.page = facts.page
        folder = Path(path).expanduser()
        self.photographs = CsvData(
            str(folder / facts.table),
            str(folder / facts.image_dir),
            *facts.columns,
            group_pattern=facts.group_pattern,
            suffix=facts.suffix,
            image_size=image_size,
            name=competition,
            label_names=_GRADES,
            skip_unreadable=skip_unreadable,
            private=private,
            ordinal=True,
            licence="rules of the Kaggle competition",
            citation=facts.citation,
        )

    def table(self) -> Table:
        """Reads the labels.

        Raises:
            DataError: If the folder is another one, or its table does not fit.
        """
        file = self.photographs.path
        if not file.is_file():
            raise DataError(
                f"{file}: no such file; accept the rules at {self.page}, fetch the files by hand, unpack them, and set "
                f"data.path to the folder with {file.name} and {self.photographs.image_dir.name}/"
            )
        return self.photographs.table()
