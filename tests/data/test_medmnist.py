"""Every two-dimensional MedMNIST set by name and size; a local file is told from the published one."""

import logging
from pathlib import Path

import numpy as np
import pytest

from reprogram.data.base import SPLITS
from reprogram.data.medmnist import MedMnistData
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

medmnist = pytest.importorskip("medmnist")

NAMES = sorted(name for name in medmnist.INFO if not name.endswith("3d") and name != "chestmnist")


def write(file: Path) -> Path:
    arrays: dict[str, np.ndarray] = {}
    for number, split in enumerate(SPLITS):
        arrays[f"{split}_images"] = np.full((2, 4, 4, 3), 10 * number, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array([[0], [1]], dtype=np.uint8)
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


@pytest.mark.parametrize("size", [28, 64, 128, 224])
def test_every_single_label_set_is_fetched_by_name_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from torchvision.datasets import utils

    asked: list[tuple[str, str]] = []

    def download_url(url: str, root: str, filename: str, md5: str) -> None:
        asked.append((filename, md5))
        write(Path(root) / filename)

    monkeypatch.setattr(utils, "download_url", download_url)
    assert len(NAMES) == 11
    flag = "" if size == 28 else f"_{size}"
    for name in NAMES:
        table = MedMnistData(name, size=size, root=str(tmp_path)).table()
        facts = medmnist.INFO[name]
        assert asked.pop() == (f"{name}{flag}.npz", facts[f"MD5{flag}"])
        assert table.class_names == tuple(facts["label"][str(label)] for label in range(len(facts["label"])))
        assert table.targets.tolist() == [0, 1] * 3
        assert table.licence == facts["license"]
        assert "MedMNIST v2" in table.citation
        assert table.ordinal == (name == "retinamnist")


def test_the_multi_label_set_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'chestmnist' has several labels an image.*one finding.*data=npz"):
        MedMnistData("chestmnist")


def test_a_file_that_is_not_the_published_one_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "mine.npz")
    table = MedMnistData("breastmnist", size=64, path=str(path)).table()
    assert table.ids[0] == "train/0"
    published = medmnist.INFO["breastmnist"]["MD5_64"]
    assert "mine.npz: is not the published file of breastmnist, size 64 (md5 " in caplog.text
    assert f"published {published})" in caplog.text


def test_a_folder_that_cannot_be_made_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"dermamnist: the download failed \(.*data\.path to a local copy"):
            MedMnistData("dermamnist", root=str(root)).table()


def test_rows_without_ids_are_numbered_by_split(tmp_path: Path, assets: Path) -> None:
    table = MedMnistData("pneumoniamnist", path=str(assets / "data" / "pneumonia_28.npz")).table()
    assert table.split is not None
    first = {name: table.ids[list(table.split).index(name)] for name in SPLITS}
    assert first == {name: f"{name}/0" for name in SPLITS}
    assert len(set(table.ids)) == 5222
    images, split = np.zeros((3, 4, 4), dtype=np.uint8), np.array(["test", "train", "test"])
    np.savez(tmp_path / "mine.npz", images=images, labels=np.array([0, 1, 7]), split=split)
    with pytest.raises(DataError, match=r"mine\.npz: expected labels 0\.\.1 .* wrong in 1 rows: test/1;"):
        MedMnistData("pneumoniamnist", path=str(tmp_path / "mine.npz")).table()


def test_the_published_file_is_known_by_its_checksum(assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = str(assets / "data" / "retinamnist.npz")
    with caplog.at_level(logging.WARNING):
        table = MedMnistData("retinamnist", path=file).table()
    assert not caplog.records
    assert {name: table.split.count(name) for name in SPLITS} == {"train": 1080, "val": 120, "test": 400}  # type: ignore[union-attr]
    test = load_task(table).splits["test"]
    assert test.targets.bincount().tolist() == [174, 46, 92, 68, 20]
    MedMnistData("retinamnist", size=224, path=file).table()
    assert "size 224 (md5 bd4c0672f1bba3e3a89f0e4e876791e4" in caplog.text
