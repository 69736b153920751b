"""The folders of the two competitions in grading diabetic retinopathy."""

from pathlib import Path

import pytest
from PIL import Image

from reprogram.data.fundus import FundusData
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")
EYES = [f"{patient}_{side}" for patient in range(10, 40) for side in ("left", "right")]


def competition(folder: Path, table: str, header: str, images: str, names: list[str], suffix: str) -> str:
    """Images whose red is ten times the grade, and whose green is their number."""
    (folder / images).mkdir(parents=True)
    lines = [f"{name},{row // 2 % 5}" for row, name in enumerate(names)]
    (folder / table).write_text("\n".join([header, *lines]) + "\n")
    for row, name in enumerate(names):
        Image.new("RGB", (8, 8), (row // 2 % 5 * 10, row, 0)).save(folder / images / f"{name}{suffix}", quality=100)
    return str(folder)


def test_aptos_as_it_is_unpacked(tmp_path: Path) -> None:
    names = [f"{row:012x}" for row in range(60)]
    path = competition(tmp_path, "train.csv", "id_code,diagnosis", "train_images", names, ".png")
    data = load_task(FundusData(path, image_size=[2, 3]).table())
    assert (data.spec.name, data.spec.class_names, data.spec.image_size) == ("aptos2019", GRADES, (2, 3))
    assert (data.spec.ordinal, data.spec.private) == (True, True)
    train = data.splits["train"]
    assert train.groups is None
    assert (train.images[:][:, 0, 0, 0] == train.targets * 10).all()


def test_both_eyes_of_a_patient_stay_in_one_split(tmp_path: Path) -> None:
    path = competition(tmp_path, "trainLabels.csv", "image,level", "train", EYES, ".jpeg")
    table = FundusData(path, "eyepacs", image_size=2).table()
    assert table.groups is not None
    assert table.groups[:3] == ["10", "10", "11"]
    data = load_task(table)
    assert (data.spec.name, data.spec.class_names) == ("eyepacs", GRADES)
    test = data.splits["test"]
    assert sorted(test.groups or ()) == sorted([*set(test.groups or ())] * 2)
    assert ((test.images[:][:, 0, 0, 0].int() - test.targets * 10).abs() <= 3).all()  # JPEG


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv: no such file; accept .*aptos2019-blindness.* and train_images/"):
        FundusData(str(tmp_path)).table()
    with pytest.raises(ConfigError, match=r"one of \['aptos2019', 'eyepacs'\], got 'messidor'"):
        FundusData(str(tmp_path), "messidor")
    path = competition(tmp_path / "eyes", "trainLabels.csv", "image,level", "train", ["10_left", "eye"], ".jpeg")
    with pytest.raises(ConfigError, match="finds no group in 1 rows: eye;"):
        FundusData(path, "eyepacs").table()
    (tmp_path / "eyes" / "trainLabels.csv").write_text("image,level\n10_left,0\n10_right,5\n")
    with pytest.raises(DataError, match=r"trainLabels.csv: .*'proliferative'\], got \['5'\] in 1 rows: 10_right"):
        FundusData(path, "eyepacs").table()
