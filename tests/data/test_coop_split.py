"""CoOp's split files beside tiny generated images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from reprogram.data.base import SPLITS, TargetData
from reprogram.data.task import load_task
from reprogram.errors import DataError

Make = Callable[..., TargetData]
Entries = dict[str, list[list[Any]]]


def entries() -> Entries:
    """Two actions; what is listed first has the larger label."""
    return {
        split: [[f"{name}/v_{name}_g0{number}_c01.jpg", label, name] for label, name in ((1, "Yo Yo"), (0, "Archery"))]
        for number, split in enumerate(SPLITS)
    }


def save(folder: Path, content: object) -> dict[str, str]:
    (folder / "split_zhou_UCF101.json").write_text(json.dumps(content))
    for number, split in enumerate(SPLITS):
        for image, label, _ in entries()[split]:
            (folder / "frames" / image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 12), (100 * label, 60 * number, 0)).save(folder / "frames" / image, quality=95)
    return {"path": str(folder / "split_zhou_UCF101.json"), "image_dir": str(folder / "frames")}


def test_the_split_the_names_and_the_pixels_are_those_of_the_file(configured: Make, tmp_path: Path) -> None:
    data = load_task(configured("ucf101", **save(tmp_path, entries())).table())
    assert data.spec.name == "ucf101"
    assert data.spec.class_names == ("Archery", "Yo Yo")
    assert not data.spec.private
    assert [len(data.splits[split]) for split in SPLITS] == [2, 2, 2]
    val = data.splits["val"]
    assert val.ids == ("Yo Yo/v_Yo Yo_g01_c01.jpg", "Archery/v_Archery_g01_c01.jpg")
    assert val.targets.tolist() == [1, 0]
    images = val.images[torch.arange(2)]
    assert images.shape == (2, 3, 128, 128)
    shades = images.float().mean(dim=(2, 3)).round()
    assert (shades - torch.tensor([[100.0, 60.0, 0.0], [0.0, 60.0, 0.0]])).abs().max() <= 3


@pytest.mark.parametrize(("name", "wanted"), [("ucf101", "UCF-101-midframes.zip"), ("sun397", "SUN397.tar.gz")])
def test_what_is_missing_is_named_with_where_to_get_it(
    configured: Make, tmp_path: Path, name: str, wanted: str
) -> None:
    places = save(tmp_path, entries())
    for key in places:
        missing = str(tmp_path / "absent")
        with pytest.raises(DataError, match=f"^{missing}: not there. Get by hand: {wanted} .*CoOp") as caught:
            configured(name, **{**places, key: missing}).table()
        assert f"split_zhou_{name.upper()}.json" in str(caught.value)


def change(split: str, row: int, entry: list[Any]) -> Entries:
    changed = entries()
    changed[split][row] = entry
    return changed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "UCF101.json: expected train, val and test, each a list of"),
        ({"train": [["a.jpg", "zero", "Archery"]]}, "UCF101.json: expected train"),
        ({"training": []}, "UCF101.json: expected train"),
        (
            change("val", 0, ["a.jpg", 1, "Archery"]),
            r"one class name for each label.*\(0, 'Archery'\), \(1, 'Archery'\)",
        ),
        (change("test", 1, ["a.jpg", 0, "Bowling"]), r"one class name for each label.*\(0, 'Bowling'\)"),
        (change("test", 1, ["a.jpg", 5, "Bowling"]), r"labels 0\.\.2 .* got 0\.\.5.* 1 rows: a\.jpg"),
        (change("test", 0, ["no.jpg", 1, "Yo Yo"]), r"1 of 6 image files .*\n.*no\.jpg: no such file"),
        (change("test", 0, entries()["train"][0]), "1 images of 'train' are also in a later split: Yo Yo/v_Yo Yo_g00"),
    ],
)
def test_a_split_file_that_is_wrong_is_refused(configured: Make, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(configured("ucf101", **save(tmp_path, content)).table())


def test_a_folder_in_place_of_the_file_is_refused(configured: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: the JSON file cannot be read .Is a directory"):
        configured("ucf101", **{**save(tmp_path, entries()), "path": str(tmp_path)}).table()


def test_only_the_first_entry_that_is_wrong_is_named(configured: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        configured("ucf101", **save(tmp_path, {"train": [["a.jpg", "zero", "A"]] * 9})).table()
    assert str(caught.value).count("valid integer") == 1
    assert "got at 'train 0 1': Input should be a valid integer" in str(caught.value)
    assert "http" not in str(caught.value)


def test_the_general_config_asks_for_a_name(configured: Make, tmp_path: Path) -> None:
    leaf = configured("coop", **save(tmp_path, entries()), name="flowers102", image_size=[8, 16])
    assert load_task(leaf.table()).spec.image_size == (8, 16)
    assert leaf.table().name == "flowers102"
