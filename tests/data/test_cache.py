"""Images are decoded once: what is shared, lost, damaged, changed or unreadable."""

import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reprogram.data import cache
from reprogram.data.base import ImageRows
from reprogram.data.cache import cached_splits
from reprogram.data.pixels import read_splits
from reprogram.errors import DataError

COUNT = 10
KEYS = [f"image {row}" for row in range(COUNT)]
ZERO = {"train": np.array([0])}


class Decoder:
    """Gives images of one colour and notes for which rows it was asked."""

    def __init__(self, *broken: int) -> None:
        self.broken, self.rows = broken, list[int]()

    def __call__(self, row: int) -> Tensor:
        self.rows.append(row)
        if row in self.broken:
            raise DataError(f"image {row}: cut short")
        return torch.full((3, 2, 4), row + 1, dtype=torch.uint8)


def read(
    decode: Decoder, keys: list[str] = KEYS, states: list[str] = KEYS, skip: bool = False, **rows: list[int]
) -> dict[str, list[int]]:
    """The colours of the images of each split."""
    wanted = {name: np.array(part) for name, part in rows.items()}
    splits = cached_splits("a task/1", keys, states, decode, (2, 4), wanted, skip_unreadable=skip)
    for images, kept in splits.values():
        assert isinstance(images, ImageRows)
        assert images.shape == (len(kept), 3, 2, 4)
        assert (images[:] == images[:][:, :1, :1, :1]).all()
    return {name: images[:][:, 0, 0, 0].tolist() for name, (images, _) in splits.items()}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPROGRAM_CACHE", str(tmp_path / "root"))
    return tmp_path / "root"


def test_an_image_is_decoded_once_and_only_if_it_is_wanted(root: Path) -> None:
    first, second, third = Decoder(), Decoder(), Decoder()
    assert read(first, train=[7, 2], test=[5]) == {"train": [8, 3], "test": [6]}
    assert sorted(first.rows) == [2, 5, 7]
    assert read(second, train=[7, 2], test=[5]) == {"train": [8, 3], "test": [6]}
    assert second.rows == []
    assert read(third, train=[5, 6]) == {"train": [6, 7]}
    assert third.rows == [6]
    folder = next(root.iterdir())
    assert folder.name.startswith("a_task_1-")
    assert {path.stat().st_mode & 0o777 for path in (root, folder)} == {0o700}


def test_other_keys_and_other_sizes_have_another_cache(root: Path) -> None:
    decode = Decoder()
    read(decode, train=[0])
    read(decode, keys=["changed", *KEYS[1:]], train=[0])
    assert decode.rows == [0, 0]
    large = cached_splits("a task/1", KEYS, KEYS, lambda row: torch.zeros(3, 1, 1).byte(), (1, 1), ZERO)
    assert large["train"][0].shape == (1, 3, 1, 1)
    assert len(list(root.iterdir())) == 3


def test_a_row_whose_state_differs_is_decoded_again_and_no_other(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(Decoder(), train=list(range(COUNT)))
    changed, same = Decoder(), Decoder()
    states = [*KEYS[:4], "changed", *KEYS[5:]]
    with caplog.at_level(logging.WARNING):
        assert read(changed, states=states, train=list(range(COUNT))) == {"train": list(range(1, COUNT + 1))}
    assert changed.rows == [4]
    assert "1 images have changed or are damaged" in caplog.text
    read(same, states=states, train=list(range(COUNT)))
    assert same.rows == []
    assert (next(root.glob("*/states"))).stat().st_size == 8 * COUNT


def test_a_kill_costs_only_the_images_that_were_not_yet_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_CHUNK", 4)

    def killed(row: int) -> Tensor:
        if row == 6:
            raise KeyboardInterrupt
        return Decoder()(row)

    rows = {"train": np.arange(COUNT)}
    with pytest.raises(KeyboardInterrupt):
        cached_splits("a task/1", KEYS, KEYS, killed, (2, 4), rows)
    again = Decoder()
    assert read(again, train=list(range(COUNT))) == {"train": list(range(1, COUNT + 1))}
    assert sorted(again.rows) == [4, 5, 6, 7, 8, 9]


def test_a_damaged_image_is_decoded_again_with_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(Decoder(), train=list(range(COUNT)))
    images = next(root.glob("*/images"))
    content = bytearray(images.read_bytes())
    content[3 * 24] ^= 1  # of image 3
    images.write_bytes(content[: 8 * 24 + 5])  # cut short in image 8
    again = Decoder()
    with caplog.at_level(logging.WARNING):
        assert read(again, train=[1, 3], test=[7, 8, 9]) == {"train": [2, 4], "test": [8, 9, 10]}
    assert sorted(again.rows) == [3, 8, 9]
    assert caplog.messages == [f"{images.parent}: 3 images have changed or are damaged, and are decoded again"]


def test_an_unreadable_image_is_refused_or_left_out_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    broken = Decoder(*range(2, 9))
    with pytest.raises(
        DataError, match=r"(?s)^7 of 10 .*\n  image 2: cut short\n.*image 6: cut short\n  \.\.\.\nRepair"
    ):
        read(broken, train=list(range(COUNT)))
    with caplog.at_level(logging.WARNING):
        assert read(broken, skip=True, train=[0, 2, 9], val=[3]) == {"train": [1, 10], "val": []}
    assert "2 of 4 image files cannot be read" in caplog.text
    assert broken.rows.count(0) == 1
    assert read(Decoder(), train=[2, 3]) == {"train": [3, 4]}


def test_processes_that_come_together_decode_an_image_once(caplog: pytest.LogCaptureFixture) -> None:
    slow = Decoder()

    def decode(row: int) -> Tensor:
        time.sleep(0.02)
        return slow(row)

    def load(fold: int) -> Tensor:
        rows = {"train": np.arange(COUNT), "test": np.array([fold])}
        return cached_splits("a task/1", KEYS, KEYS, decode, (2, 4), rows)["train"][0][:][:, 0, 0, 0]

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as pool:
        assert [colours.tolist() for colours in pool.map(load, [0, 1])] == [list(range(1, COUNT + 1))] * 2
    assert sorted(slow.rows) == list(range(COUNT))
    assert "another process is decoding" in caplog.text


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.write_text("a file")
    with pytest.raises(DataError, match=r"root/a_task_1-.*REPROGRAM_CACHE to a folder with room"):
        read(Decoder(), train=[0])
    root.unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*REPROGRAM_CACHE"):
        read(Decoder(), train=[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(root: Path) -> None:
    root.mkdir(mode=0o500)
    with pytest.raises(DataError, match="Permission denied"):
        read(Decoder(), train=[0])


def test_a_file_that_changes_or_appears_is_read_anew(tmp_path: Path, root: Path) -> None:
    def colours(folder: str = "data", skip: bool = False) -> list[int]:
        paths = [tmp_path / folder / f"{row}.png" for row in range(2)]
        splits = read_splits(paths, tmp_path / folder, {"train": np.arange(2)}, (1, 1), skip, "files")
        return splits["train"][0][:][:, 0, 0, 0].tolist()

    def write(row: int, colour: int) -> None:
        file = tmp_path / "data" / f"{row}.png"
        Image.new("RGB", (1, 1), (colour, 0, 0)).save(file)
        os.utime(file, ns=(0, 10**18 + colour))  # whatever the resolution of the file system's clock

    (tmp_path / "data").mkdir()
    write(0, 10)
    assert colours(skip=True) == [10]
    with pytest.raises(DataError, match=r"1 of 2 .*\n.*data/1\.png: no such file"):
        colours()
    write(1, 20)
    assert colours() == [10, 20]
    write(0, 30)
    assert colours() == [30, 20]
    assert len(list(root.iterdir())) == 1


def test_files_of_equal_name_size_and_time_are_told_apart(tmp_path: Path) -> None:
    def write(folder: str, colour: int) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        with (tmp_path / folder / "0.bmp").open("r+b" if (tmp_path / folder / "0.bmp").exists() else "wb") as file:
            Image.new("RGB", (1, 1), (colour, 0, 0)).save(file, "bmp")
        os.utime(tmp_path / folder / "0.bmp", ns=(0, 10**18))

    def colour(folder: str) -> int:
        images, _ = read_splits([tmp_path / folder / "0.bmp"], tmp_path / folder, ZERO, (1, 1), False, "files")["train"]
        return int(images[:][0, 0, 0, 0])

    for name, value in (("one", 10), ("two", 20)):
        write(name, value)
        assert colour(name) == value
    inode = (tmp_path / "one" / "0.bmp").stat().st_ino
    time.sleep(0.02)  # longer than a tick of the kernel's clock, which stamps the change
    write("one", 30)
    assert (tmp_path / "one" / "0.bmp").stat().st_ino == inode
    assert (colour("one"), colour("two")) == (30, 20)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert colour("link") == 30
    assert len(list((tmp_path / "root").iterdir())) == 2
