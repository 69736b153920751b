"""Folders and tables of image files: pixel rules, missing and broken files."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reprogram.data.csv_images import CsvData
from reprogram.data.folder import FolderData
from reprogram.data.pixels import files_below, read_image
from reprogram.data.protocols import Selection
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

KEEP = Selection(duplicates="keep")  # for images that are alike on purpose


def write(path: Path, colour: tuple[int, int, int] = (10, 20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path)


def folder(root: Path, splits: tuple[str, ...] = ("",), count: int = 10) -> Path:
    for split in splits:
        for label, level in (("mole", 50), ("melanoma", 200)):
            for row in range(count):
                write(root / split / label / f"p{row // 2}_{row}.png", (level, row, 0))
    return root


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((2, 2), 32768, dtype=np.uint16)), (128, 128, 128)),  # I;16
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("LA", (2, 2), (200, 0)), (0, 0, 0)),  # transparent lies over black
        (Image.new("RGBA", (2, 2), (200, 100, 50, 51)), (40, 20, 10)),
        (Image.new("RGB", (2, 2), (255, 0, 0)).convert("P"), (255, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_follows_the_stated_rule(tmp_path: Path, image: Image.Image, expected: tuple[int, int, int]) -> None:
    image.save(tmp_path / "image.png")
    pixels = read_image(tmp_path / "image.png", (3, 5))
    assert pixels.shape == (3, 3, 5)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.tensor(expected, dtype=torch.uint8)[:, None, None].expand(3, 3, 5))


def test_cmyk_becomes_rgb_and_32_bits_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "image.tif")
    assert read_image(tmp_path / "image.tif", (1, 1)).flatten().tolist() == [255, 0, 0]
    Image.new("F", (2, 2), 0.5).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=r"mode F .* no stated range"):
        read_image(tmp_path / "image.tif", (1, 1))


def test_files_are_turned_upright_and_resized_with_antialiasing(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4), dtype=np.uint8)
    pixels[:, :2] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what was left comes to the top
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", (4, 2))[0].tolist() == [[200, 200], [200, 200], [0, 0], [0, 0]]
    stripes = np.tile(np.array([[0, 100]], dtype=np.uint8), (8, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert ((read_image(tmp_path / "stripes.png", (2, 2)).int() - 50).abs() <= 3).all()  # not one column picked


def test_a_folder_with_splits(tmp_path: Path) -> None:
    root = folder(tmp_path / "skin", ("train", "val", "test"), count=3)
    data = load_task(FolderData(str(root), image_size=[2, 3]).table(), selection=KEEP)
    assert data.spec.name == "skin"
    assert data.spec.class_names == ("melanoma", "mole")
    assert data.spec.image_size == (2, 3)
    assert data.spec.private
    test = data.splits["test"]
    assert test.ids[:2] == ("test/melanoma/p0_0.png", "test/melanoma/p0_1.png")
    assert test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.images[:][:, 0, 0, 0].tolist() == [200] * 3 + [50] * 3
    assert test.images[:][:3, 1, 0, 0].tolist() == [0, 1, 2]


def test_a_folder_without_splits_keeps_patients_whole(tmp_path: Path) -> None:
    root = folder(tmp_path, count=40)
    data = load_task(FolderData(str(root), class_names=["mole", "melanoma"], group_pattern=r"/(p\d+)_").table())
    assert data.spec.class_names == ("mole", "melanoma")
    assert {name: len(examples) for name, examples in data.splits.items()} == {"train": 52, "val": 12, "test": 16}
    assert data.splits["test"].groups is not None
    members = [set(examples.groups or ()) for examples in data.splits.values()]
    assert len(set.union(*members)) == sum(map(len, members))
    for pattern in ("(", "p", r"/(q\d)"):
        with pytest.raises(ConfigError, match="group_pattern"):
            load_task(FolderData(str(root), group_pattern=pattern).table())


def test_a_folder_split_that_leaks_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, ("train", "val", "test"), count=2)
    with pytest.raises(DataError, match="1 groups leak"):
        load_task(FolderData(str(root), group_pattern=r"(p\d+)").table(), selection=KEEP)


@pytest.mark.parametrize(
    ("name", "wanted"), [("Train", "train"), ("Training", "train"), ("valid", "val"), ("VALIDATION", "val")]
)
def test_a_folder_named_nearly_like_a_split_is_to_be_renamed(tmp_path: Path, name: str, wanted: str) -> None:
    root = folder(tmp_path, (name, "test"), count=1)
    with pytest.raises(DataError, match=f"rename {name} to {wanted}"):
        FolderData(str(root)).table()


def test_linked_folders_are_read_and_loops_are_not_followed(tmp_path: Path) -> None:
    pool = folder(tmp_path / "pool", count=2)
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for label in ("mole", "melanoma"):
            (tmp_path / "data" / split / label).symlink_to(pool / label)
    (pool / "mole" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (pool / "mole" / "self").symlink_to("self")
    table = FolderData(str(tmp_path / "data")).table()
    names = ["melanoma/p0_0.png", "melanoma/p0_1.png", "mole/p0_0.png", "mole/p0_1.png"]
    assert [name for name in table.ids if "loop" not in name] == [
        f"{s}/{name}" for s in ("test", "train") for name in names
    ]
    assert files_below(tmp_path / "absent") == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DataError, match=f"{tmp_path}: the folder cannot be read .Permission denied"):
        files_below(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    (folder(tmp_path / "flat") / "nevus").mkdir()
    (tmp_path / "flat" / ".cache").mkdir()
    with pytest.raises(DataError, match=r"no images in the class folders \['nevus'\]"):
        FolderData(str(tmp_path / "flat")).table()
    (folder(tmp_path / "split", ("train", "test")) / "test" / "nevus").mkdir()
    with pytest.raises(DataError, match=r"\['test/nevus'\]; fill or remove"):
        FolderData(str(tmp_path / "split")).table()


def test_other_files_are_named_and_an_empty_folder_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder(tmp_path / "skin") / "mole" / "scan.dcm").write_bytes(b"x")
    (tmp_path / "skin" / "mole" / ".DS_Store").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        load_task(FolderData(str(tmp_path / "skin"), image_size=2).table())
    assert len(caplog.messages) == 1
    assert "ignored 1 files" in caplog.messages[0]
    assert "mole/scan.dcm" in caplog.messages[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images at CLASS/FILE"):
        load_task(FolderData(str(tmp_path / "empty")).table())
    with pytest.raises(DataError, match="no such folder"):
        load_task(FolderData(str(tmp_path / "absent")).table())
    with pytest.raises(ConfigError, match="image_size"):
        FolderData(str(tmp_path), image_size=[1, 2, 3])


def test_broken_images_are_counted_and_named_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(tmp_path, ("train", "val", "test"))
    whole = (root / "train" / "mole" / "p0_0.png").read_bytes()
    (root / "train" / "mole" / "p0_0.png").write_bytes(whole[:-30])
    (root / "val" / "mole" / "p0_1.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"(?s)2 of 60 .*train/mole/p0_0\.png.*val/mole/p0_1\.png.*data\.skip_unreadable=true"
    ):
        load_task(FolderData(str(root)).table())
    with caplog.at_level(logging.WARNING):
        data = load_task(FolderData(str(root), image_size=2, skip_unreadable=True).table(), selection=KEEP)
    assert "2 of 60" in caplog.text
    assert "p0_1.png" in caplog.text
    assert {name: len(examples) for name, examples in data.splits.items()} == {"train": 19, "val": 19, "test": 20}
    assert "train/mole/p0_0.png" not in data.splits["train"].ids
    for examples in data.splits.values():  # rows after a gap still belong together
        assert torch.equal(examples.images[:][:, 0, 0, 0], torch.tensor([200, 50], dtype=torch.uint8)[examples.targets])


def table(root: Path, lines: list[str], missing: int = 0, **changes: Any) -> CsvData:
    (root / "table.csv").write_text("﻿" + "\n".join(["image,dx,part,lesion", *lines]) + "\n", encoding="utf-8")
    for row in range(missing, 12):
        write(root / "pictures" / f"i{row}.png", (row, 0, 0))
    arguments: dict[str, Any] = {
        "path": str(root / "table.csv"),
        "image_dir": str(root / "pictures"),
        "image_column": "image",
        "label_column": "dx",
        "split_column": "part",
        "group_column": "lesion",
        "suffix": ".png",
        "image_size": 2,
    }
    return CsvData(**arguments | changes)


LINES = [f"i{row},{'nv' if row % 2 else 'mel'},{['train', 'val', 'test'][row % 3]},l{row}" for row in range(12)]


def test_a_table_of_images(tmp_path: Path) -> None:
    data = load_task(table(tmp_path, LINES).table())
    assert data.spec.class_names == ("mel", "nv")
    val = data.splits["val"]
    assert val.ids == ("i1", "i4", "i7", "i10")
    assert val.groups == ("l1", "l4", "l7", "l10")
    assert val.targets.tolist() == [1, 0, 1, 0]
    assert val.images[:][:, 0, 0, 0].tolist() == [1, 4, 7, 10]


def test_a_table_with_groups_in_its_ids_and_other_names_for_its_labels(tmp_path: Path) -> None:
    names: dict[str | int, str] = {"nv": "benign", "mel": "malignant", "bcc": "malignant"}
    lines = [line.replace("mel", "bcc") if row == 6 else line for row, line in enumerate(LINES)]
    found = table(tmp_path, lines, label_names=names, group_column=None, group_pattern=r"^i(\d)").table()
    assert found.class_names == ("benign", "malignant")
    assert found.targets.tolist() == [1, 0] * 6
    assert found.groups == [str(row)[0] for row in range(12)]
    turned = table(tmp_path, lines, label_names=names, class_names=["malignant", "benign"]).table()
    assert turned.targets.tolist() == [0, 1] * 6
    numbers = table(
        tmp_path, [line.replace("mel", "0").replace("nv", "1") for line in LINES], label_names={0: "a", 1: "b"}
    )
    assert numbers.table().class_names == ("a", "b")
    with pytest.raises(ConfigError, match="one of group_column and group_pattern, got 'lesion' and 'x'"):
        table(tmp_path, lines, group_pattern="x")
    with pytest.raises(ConfigError, match=r"finds no group in 10 rows: i0, i1, i2, i3, i4, \.\.\.;"):
        table(tmp_path, lines, group_column=None, group_pattern=r"^i(1\d)").table()


def test_attributes_of_a_table_may_be_empty_but_not_missing(tmp_path: Path) -> None:
    lines = [f"{line[: line.rindex(',')]},{'' if row == 2 else row}" for row, line in enumerate(LINES)]
    data = load_task(table(tmp_path, lines, group_column=None, attributes={"age": "lesion"}).table())
    assert data.splits["test"].attributes == {"age": ("", "5", "8", "11")}
    with pytest.raises(DataError, match=r"table\.csv: .* of \['image', 'dx', 'part', 'lesion'\]; .* column \['sexe'\]"):
        table(tmp_path, lines, group_column=None, attributes={"sex": "sexe"}).table()


def test_a_label_that_is_no_class_is_named_with_its_ids(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"table\.csv: .*\['mel'\], got \['nv'\] in 6 rows: i1, i3, i5, i7, i9, \.\.\.;"
    ):
        table(tmp_path, LINES, class_names=["mel"]).table()


def test_an_empty_label_is_one_that_is_not_known_yet(tmp_path: Path) -> None:
    found = table(tmp_path, [line.replace("nv", "") for line in LINES], class_names=["mel", "nv"]).table()
    assert found.targets.tolist() == [-1 if "nv" in line else 0 for line in LINES]
    none = [re.sub("nv|mel", "", line) for line in LINES]
    with pytest.raises(DataError, match="no row is labelled; give class_names"):
        table(tmp_path, none).table()


def test_missing_images_of_a_table_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)7 of 12 .*i0\.png: no such file.*\.\.\.\n"):
        load_task(table(tmp_path, LINES, missing=7).table())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES[:3], "i3,nv, ,l3"], "1 rows have an empty cell .*: row 4"),
        ([*LINES[:3], "i3, ,train,l3", *LINES[4:]], r"a label .* rows of 'train', got none for 1 rows: i3; list those"),
        ([*LINES[:11], "i11,,test,l11"], "rows of 'test', got none for 1 rows: i11; leave them out"),
        ([*LINES, "i0,nv,train,l0"], "unique ids, got i0"),
        ([*LINES[:11], "i11,nv,test,l0"], "1 groups leak.*: l0"),
        ([], "got 0 rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(table(tmp_path, lines).table())


def test_a_missing_column_or_table_is_refused(tmp_path: Path) -> None:
    table(tmp_path, LINES)
    with pytest.raises(DataError, match=r"rows of \['image', 'label'\], got 12 rows of \['image', 'dx'"):
        load_task(CsvData(str(tmp_path / "table.csv"), str(tmp_path), "image", "label").table())
    with pytest.raises(DataError, match="CSV file in UTF-8"):
        load_task(CsvData(str(tmp_path / "absent.csv"), str(tmp_path), "image", "dx").table())
