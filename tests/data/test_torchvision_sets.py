"""Every named set of torchvision, read by the library's class from a tiny copy of its layout; nothing is fetched."""

import csv
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as library
from PIL import Image
from scipy.io import savemat

from reprogram.data.base import TargetData
from reprogram.data.protocols import FixedSplit
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

Make = Callable[..., TargetData]
Sizes = dict[str, int]


def draw(file: Path, shade: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (shade, 0, 255 - shade)).save(file)


def write_cifar(root: Path, kind: type[library.CIFAR10], labels_key: str) -> Sizes:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    lists = [*kind.train_list, *kind.test_list]
    for number, (name, _) in enumerate(lists):
        pixels = np.full((4, 3072), number, dtype=np.uint8)
        pixels[:, 0] = range(4)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, labels_key: [0, 1, 0, 1]}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["cat", "dog"]}))
    return {"train": 4 * len(kind.train_list), "test": 4}


def write_svhn(root: Path) -> Sizes:
    root.mkdir()
    for number, split in enumerate(("train", "test")):
        pixels = np.full((32, 32, 3, 10), number, dtype=np.uint8)
        pixels[0, 1, 2] = 7  # row 0, column 1, blue
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": np.arange(1, 11)[:, None]})
    return {"train": 10, "test": 10}


def write_gtsrb(root: Path) -> Sizes:
    base = root / "gtsrb"
    for label in range(43):
        for track in range(3):
            for frame in range(2):
                file = base / "GTSRB" / "Training" / f"{label:05d}" / f"{track:05d}_{frame:05d}.ppm"
                draw(file, 5 * label + track)
    with (base / "GT-final_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Filename", "ClassId"])
        for number in range(2):
            draw(base / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm", 250 + number)
            writer.writerow([f"{number:05d}.ppm", 42 - number])
    return {"train": 258, "test": 2}


def write_flowers(root: Path) -> Sizes:
    base = root / "flowers-102"
    for number in range(1, 307):
        draw(base / "jpg" / f"image_{number:05d}.jpg", number % 256)
    numbers = np.arange(1, 307)
    savemat(base / "imagelabels.mat", {"labels": (numbers - 1) // 3 + 1})
    savemat(
        base / "setid.mat", {key: numbers[numbers % 3 == part] for part, key in enumerate(["tstid", "trnid", "valid"])}
    )
    return {"train": 102, "val": 102, "test": 102}


def write_dtd(root: Path) -> Sizes:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{texture}/{texture}_{number}.jpg" for texture in ("banded", "woven")]
        (base / "labels" / f"{split}1.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            draw(base / "images" / line, 50 * number)
    return {"train": 2, "val": 2, "test": 2}


def write_eurosat(root: Path) -> Sizes:
    for cover, shade in (("Forest", 0), ("River", 100)):
        for number in range(10):
            draw(root / "eurosat" / "2750" / cover / f"{cover}_{number}.jpg", shade + 7 * number)
    return {"train": 20}


def write_pets(root: Path) -> Sizes:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for number, split in enumerate(("trainval", "test")):
        names = [f"{breed}_{number}" for breed in ("great_pyrenees", "Bombay")]
        lines = [f"{name} {label} 1 1\n" for label, name in enumerate(names, 1)]
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
        for name in names:
            draw(base / "images" / f"{name}.jpg", 90 * number)
    return {"train": 2, "test": 2}


def write_food(root: Path) -> Sizes:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for number, split in enumerate(("train", "test")):
        files = {dish: [f"{dish}/{number}"] for dish in ("sushi", "apple_pie")}
        (base / "meta" / f"{split}.json").write_text(json.dumps(files))
        for (file,) in files.values():
            draw(base / "images" / f"{file}.jpg", 90 * number)
    return {"train": 2, "test": 2}


LAYOUTS: dict[str, Callable[[Path], Sizes]] = {
    "cifar10": lambda root: write_cifar(root, library.CIFAR10, "labels"),
    "cifar100": lambda root: write_cifar(root, library.CIFAR100, "fine_labels"),
    "svhn": write_svhn,
    "gtsrb": write_gtsrb,
    "flowers102": write_flowers,
    "dtd": write_dtd,
    "eurosat": write_eurosat,
    "oxford_pets": write_pets,
    "food101": write_food,
}


@pytest.fixture(autouse=True)
def _no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny files have other checksums than the published ones; a missing file is still missing."""
    for module in (library.cifar, library.svhn, library.flowers102, library.utils):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_named_set_has_the_splits_of_the_library(configured: Make, tmp_path: Path, name: str) -> None:
    sizes = LAYOUTS[name](tmp_path / "root")
    table = configured(name, root=str(tmp_path / "root")).table()
    assert table.split is not None
    assert {split: table.split.count(split) for split in dict.fromkeys(table.split)} == sizes
    assert (table.name, table.private) == (name, False)
    assert len(set(table.ids)) == sum(sizes.values())
    side = 32 if name in ("cifar10", "cifar100", "svhn", "gtsrb") else 128
    images, kept = table.read({"test": np.array([1, 0])})["test"]
    assert kept == [1, 0]
    assert images[torch.tensor([0])].shape == (1, 3, side, side)


def test_arrays_keep_their_pixels_their_order_and_the_names_of_their_classes(configured: Make, tmp_path: Path) -> None:
    write_cifar(tmp_path, library.CIFAR10, "labels")
    table = configured("cifar10", root=str(tmp_path)).table()
    assert table.class_names == ("cat", "dog")
    assert table.targets.tolist() == [0, 1] * 12
    assert (table.ids[5], table.ids[21]) == ("train/5", "test/1")
    images, _ = table.read({"test": np.array([21])})["test"]
    assert images[:][0, :, 0, 0].tolist() == [1, 5, 5]
    assert images[:][0, :, 31, 31].tolist() == [5, 5, 5]


def test_digits_of_svhn_have_their_channels_put_first(configured: Make, tmp_path: Path) -> None:
    write_svhn(tmp_path / "root")
    table = configured("svhn", root=str(tmp_path / "root")).table()
    assert table.class_names == tuple("0123456789")
    assert table.targets[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    images, _ = table.read({"test": np.array([10])})["test"]
    assert images[:][0, :, 0, 1].tolist() == [1, 1, 7]
    assert images[:][0, :, 1, 0].tolist() == [1, 1, 1]


def test_photographs_of_one_sign_stay_together(configured: Make, tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    table = configured("gtsrb", root=str(tmp_path)).table()
    assert table.class_names[14] == "stop"
    assert table.ids[3] == "gtsrb/GTSRB/Training/00000/00001_00001.ppm"
    assert table.groups is not None
    assert (table.groups[3], table.groups[-1]) == ("Training/00000/00001", "Final_Test/Images/00001")
    assert table.targets[-2:].tolist() == [42, 41]
    rows = FixedSplit(val_fraction=0.3).rows(table)
    members = {split: {table.groups[row] for row in rows[split]} for split in rows}
    assert not members["train"] & members["val"]
    assert len(rows["val"]) == 2 * len(members["val"]) > 60


def test_a_set_without_splits_is_split_here(configured: Make, tmp_path: Path) -> None:
    write_eurosat(tmp_path)
    data = load_task(configured("eurosat", root=str(tmp_path)).table(), FixedSplit(val_fraction=0.2, test_fraction=0.3))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [10, 4, 6]
    assert data.spec.class_names == ("Forest", "River")
    test = data.splits["test"]
    forest = test.ids.index(next(name for name in test.ids if "Forest" in name))
    number = int(test.ids[forest].removesuffix(".jpg").rsplit("_")[-1])
    assert abs(int(test.images[torch.tensor([forest])].float().mean(dim=(2, 3))[0, 0]) - 7 * number) <= 2


def test_names_come_from_the_library_and_may_be_put_in_another_order(configured: Make, tmp_path: Path) -> None:
    write_pets(tmp_path)
    assert configured("oxford_pets", root=str(tmp_path)).table().class_names == ("Great Pyrenees", "Bombay")
    turned = configured("oxford_pets", root=str(tmp_path), class_names=["Bombay", "Great Pyrenees"]).table()
    assert turned.targets.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_what_cannot_be_fetched_is_named_with_its_place(
    configured: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    leaf = configured(name, root=str(tmp_path))
    module = sys.modules[getattr(library, leaf.dataset).__module__]
    for function in ("download_url", "download_and_extract_archive"):
        monkeypatch.setattr(module, function, offline, raising=False)
    with pytest.raises(DataError, match="no route to host") as caught:
        leaf.table()
    assert f"{name}: incomplete in {tmp_path}" in str(caught.value)
    assert f"Save there by hand: {leaf.by_hand}" in str(caught.value)
    assert "http" in leaf.by_hand
    with pytest.raises(DataError, match="You can use download=True"):
        configured(name, root=str(tmp_path), download=False).table()


def test_a_broken_image_is_named(configured: Make, tmp_path: Path) -> None:
    write_food(tmp_path)
    (tmp_path / "food-101" / "images" / "sushi" / "1.jpg").write_bytes(b"cut")
    table = configured("food101", root=str(tmp_path)).table()
    with pytest.raises(DataError, match=r"1 of 2 image files .*\n.*sushi/1\.jpg"):
        table.read({"test": np.array([2, 3])})
    skipped = configured("food101", root=str(tmp_path), skip_unreadable=True).table().read({"test": np.array([2, 3])})
    assert skipped["test"][1] == [3]


def test_what_is_no_such_set_is_refused(configured: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"torchvision\.datasets, got 'Cifar10'"):
        configured("cifar10", root=str(tmp_path), dataset="Cifar10")
    with pytest.raises(ConfigError, match=r"splits: expected the arguments of train .* got none"):
        configured("cifar10", root=str(tmp_path), splits={})
    write_cifar(tmp_path, library.CIFAR10, "labels")
    with pytest.raises(ConfigError, match=r"cifar10 is an array of images \[32, 32\], got \[64, 64\]; program\.size"):
        configured("cifar10", root=str(tmp_path), image_size=64).table()
    with pytest.raises(ConfigError, match=r"splits: EuroSAT does not take {'split': 'train'}"):
        configured("cifar10", root=str(tmp_path), dataset="EuroSAT", splits={"train": {"split": "train"}}).table()
    with pytest.raises(ConfigError, match=r"splits: SVHN does not take {'split': 'val'} \(Unknown value 'val'"):
        configured("svhn", root=str(tmp_path), splits={"val": {"split": "val"}}).table()
    monkeypatch.setattr(library, "CIFAR10", lambda root, download, train: SimpleNamespace(targets=[0]))
    with pytest.raises(ConfigError, match="images with one label each, got 'CIFAR10'"):
        configured("cifar10", root=str(tmp_path)).table()
