"""HAM10000 and the ISIC challenges, as they are unpacked."""

from pathlib import Path

import pytest
from PIL import Image

from reprogram.data.skin import Ham10000Data, IsicData
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

HAM_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
CODES_2018 = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
CODES_2019 = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
COUNT = 112
IDS = [f"ISIC_{row:07d}" for row in range(COUNT)]


def image(folder: Path, name: str, row: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (row * 2, 255 - row, 99)).save(folder / f"{name}.jpg", quality=100)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def ham(folder: Path, metadata: str = "HAM10000_metadata.csv") -> str:
    for row, name in enumerate(IDS):
        image(folder / f"HAM10000_images_part_{1 + row % 2}", name, row)
    cells = [
        f"HAM_{row // 2},{name},{HAM_CLASSES[row // 2 % 7]},histo,{'' if row == 3 else '55.0'},unknown,back"
        for row, name in enumerate(IDS)
    ]
    write(folder / metadata, "lesion_id,image_id,dx,dx_type,age,sex,localization", *cells)
    return str(folder)


def isic(folder: Path, year: int) -> str:
    """Rows of the metadata come in another order than those of the ground truth."""
    codes, prefix = (CODES_2018, "ISIC2018_Task3") if year == 2018 else (CODES_2019, "ISIC_2019")
    classes = codes if year == 2018 else codes[:-1]
    for row, name in enumerate(IDS):
        image(folder / f"{prefix}_Training_Input", name, row)
    image(folder / "ISIC2018_Task3_Test_Input", "ISIC_9999999", 0)
    marks = [
        ",".join("1.0" if code == classes[row // 2 % len(classes)] else "0.0" for code in codes) for row in range(COUNT)
    ]
    truth = [f"{name},{mark}" for name, mark in zip(IDS, marks, strict=True)]
    write(folder / "truth" / f"{prefix}_Training_GroundTruth.csv", ",".join(["image", *codes]), *truth)
    if year == 2018:
        cells = [f"{name},HAM_{row // 2},histopathology" for row, name in enumerate(IDS)]
        write(folder / f"{prefix}_Training_LesionGroupings.csv", "image,lesion_id,diagnosis_confirm_type", *cells[::-1])
    else:
        cells = [f"{name},{row % 9 * 5},,{f'BCN_{row // 2}' if row > 1 else ''},male" for row, name in enumerate(IDS)]
        write(
            folder / f"{prefix}_Training_Metadata.csv",
            "image,age_approx,anatom_site_general,lesion_id,sex",
            *cells[::-1],
        )
    return str(folder)


@pytest.mark.parametrize("metadata", ["HAM10000_metadata.csv", "HAM10000_metadata"])
def test_ham10000_as_it_is_unpacked(tmp_path: Path, metadata: str) -> None:
    table = Ham10000Data(ham(tmp_path, metadata), image_size=4).table()
    assert (table.name, table.class_names, table.licence) == ("ham10000", HAM_CLASSES, "CC BY-NC 4.0")
    assert table.targets[:15].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 0]
    assert table.attributes["age"][2:4] == ["55.0", ""]
    assert set(table.attributes["sex"]) == {""}  # "unknown"
    assert set(table.attributes["location"]) == {"back"}
    data = load_task(table)
    test = data.splits["test"]
    assert sorted(test.groups or ()) == sorted([*set(test.groups or ())] * 2)
    reds = [2 * IDS.index(name) for name in test.ids]
    assert (test.images[:][:, 0, 0, 0].int() - test.images[:].new_tensor(reds).int()).abs().max() <= 3


def test_ham10000_from_the_shared_file(assets: Path) -> None:
    data = load_task(Ham10000Data(str(assets / "data" / "ham10000_64.npz")).table())
    assert (data.spec.name, data.spec.class_names, data.spec.image_size) == ("ham10000", HAM_CLASSES, (64, 64))
    assert (data.spec.licence, data.spec.private) == ("CC BY-NC 4.0", False)
    assert data.splits["test"].targets.bincount().tolist() == [27, 40, 87, 9, 74, 160, 12]
    assert (data.splits["test"].groups or [""])[0].startswith("HAM_")


def test_isic_2018_as_it_is_unpacked(tmp_path: Path) -> None:
    table = IsicData(isic(tmp_path, 2018), 2018, image_size=4).table()
    assert (table.name, table.class_names, table.attributes) == ("isic2018", HAM_CLASSES, {})
    assert table.ids == IDS
    assert table.targets[:15].tolist() == [4, 4, 5, 5, 1, 1, 0, 0, 2, 2, 3, 3, 6, 6, 4]
    assert table.groups is not None
    assert table.groups[:3] == ["HAM_0", "HAM_0", "HAM_1"]
    assert sum(len(examples) for examples in load_task(table).splits.values()) == COUNT


def test_isic_2019_has_eight_classes_and_lone_images_are_lesions_of_their_own(tmp_path: Path) -> None:
    table = IsicData(isic(tmp_path, 2019), image_size=4).table()
    assert (table.name, table.class_names) == ("isic2019", ("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc"))
    assert table.targets[:17].tolist() == [4, 4, 5, 5, 1, 1, 0, 0, 2, 2, 3, 3, 7, 7, 6, 6, 4]
    assert table.groups is not None
    assert table.groups[:4] == [IDS[0], IDS[1], "BCN_1", "BCN_1"]
    assert table.attributes["age"][:3] == ["0", "5", "10"]
    assert (set(table.attributes["sex"]), set(table.attributes["location"])) == ({"male"}, {""})
    assert sum(len(examples) for examples in load_task(table).splits.values()) == COUNT


def test_an_image_with_no_class_or_two_is_named(tmp_path: Path) -> None:
    path = isic(tmp_path, 2019)
    truth = tmp_path / "truth" / "ISIC_2019_Training_GroundTruth.csv"
    lines = truth.read_text().splitlines()
    lines[3] = f"{IDS[2]},0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0"  # UNK
    lines[5] = f"{IDS[4]},1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0"
    write(truth, *lines)
    with pytest.raises(DataError, match=rf"GroundTruth\.csv: .*none or several in 2 rows: {IDS[2]}, {IDS[4]};"):
        IsicData(path).table()


@pytest.mark.parametrize(("shorter", "longer"), [("Metadata", "GroundTruth"), ("GroundTruth", "Metadata")])
def test_an_image_that_is_in_one_table_only_is_named(tmp_path: Path, shorter: str, longer: str) -> None:
    path = isic(tmp_path, 2019)
    table = next(tmp_path.rglob(f"*{shorter}.csv"))
    write(table, *(line for line in table.read_text().splitlines() if not line.startswith(IDS[7])))
    with pytest.raises(DataError, match=rf"{longer}\.csv: 1 rows: {IDS[7]} are not in .*{shorter}\.csv"):
        IsicData(path).table()


def test_linked_folders_of_images_are_found(tmp_path: Path) -> None:
    ham(tmp_path / "disk")
    (tmp_path / "data").mkdir()
    for part in (tmp_path / "disk").iterdir():
        (tmp_path / "data" / part.name).symlink_to(part)
    data = load_task(Ham10000Data(str(tmp_path / "data"), image_size=4).table())
    assert sum(map(len, data.splits.values())) == COUNT


def test_a_folder_without_the_files_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected HAM10000_metadata.csv; .*DVN/DBW86T"):
        Ham10000Data(str(tmp_path)).table()
    with pytest.raises(DataError, match=r"expected \['ISIC2018_Task3_Training_GroundTruth.csv', .*isic-archive.*#2018"):
        IsicData(str(tmp_path), 2018).table()
    with pytest.raises(ConfigError, match=r"one of \[2018, 2019\], got 2020"):
        IsicData(str(tmp_path), 2020)


def test_missing_images_are_named(tmp_path: Path) -> None:
    path = ham(tmp_path)
    (tmp_path / "HAM10000_images_part_1" / f"{IDS[0]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"1 of {COUNT} .*\n.*{IDS[0]}\.jpg: no such file"):
        load_task(Ham10000Data(path, image_size=4).table())
