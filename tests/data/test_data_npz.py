"""Every layout of a NumPy file, its errors, and the shared assets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reprogram.data.base import SPLITS
from reprogram.data.medmnist import MedMnistData
from reprogram.data.npz import NpzData
from reprogram.data.protocols import Selection
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

GENERATOR = np.random.default_rng(0)
SPLIT = np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 4)
LABELS = np.arange(12) % 2
KEEP = Selection(duplicates="keep")  # for images that are alike on purpose
PIXELS = GENERATOR.integers(0, 256, size=(12, 4, 5, 3), dtype=np.uint8)


def save(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "toy.npz", **arrays)  # type: ignore[arg-type]
    return str(folder / "toy.npz")


def test_colour_images_with_all_columns(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        images=PIXELS,
        labels=LABELS,
        class_names=np.array(["bad", "good"]),
        split=SPLIT,
        image_id=np.array([f"i{row}" for row in range(12)]),
        lesion_id=np.array([f"l{row}" for row in range(12)]),
    )
    data = load_task(NpzData(path, ordinal=True, licence="CC0", citation="me").table())
    assert data.spec.name == "toy"
    assert data.spec.class_names == ("bad", "good")
    assert (data.spec.private, data.spec.ordinal, data.spec.licence, data.spec.citation) == (True, True, "CC0", "me")
    assert data.spec.image_size == (4, 5)
    assert data.spec.support is None
    val = data.splits["val"]
    assert val.ids == ("i6", "i7")
    assert val.groups == ("l6", "l7")
    assert val.targets.tolist() == [0, 1]
    assert torch.equal(val.images, torch.from_numpy(PIXELS[6:8]).permute(0, 3, 1, 2))


def test_the_order_of_named_classes_can_be_chosen(tmp_path: Path) -> None:
    path = save(tmp_path, images=PIXELS, labels=LABELS, class_names=np.array(["bad", "good"]), split=SPLIT)
    data = load_task(NpzData(path, class_names=["good", "bad"]).table())
    assert data.spec.class_names == ("good", "bad")
    assert data.splits["val"].targets.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"class names \['good', 'worse'\], got \['bad'\]"):
        load_task(NpzData(path, class_names=["good", "worse"]).table())


def test_a_label_out_of_range_is_named_with_its_ids(tmp_path: Path) -> None:
    names, ids = np.array(["a", "b"]), np.array([f"i{row}" for row in range(12)])
    path = save(tmp_path, images=PIXELS, labels=LABELS - 2 * (ids == "i4"), class_names=names, ids=ids, split=SPLIT)
    with pytest.raises(DataError, match=r"toy\.npz: expected labels 0\.\.1 .* got -2\.\.1, wrong in 1 rows: i4;"):
        NpzData(path).table()


@pytest.mark.parametrize("text", [False, True])
def test_a_row_without_a_label_is_trained_on_once_it_has_one(tmp_path: Path, text: bool) -> None:
    numbers = np.where(np.arange(12) == 4, -1, LABELS)
    labels = np.array(["bad", "good", ""])[numbers] if text else numbers
    path = save(tmp_path, images=PIXELS, labels=labels, split=SPLIT)
    table = NpzData(path).table()
    assert table.targets.tolist() == numbers.tolist()
    assert table.class_names == (("bad", "good") if text else ("0", "1"))
    with pytest.raises(DataError, match=r"the 6 rows of 'train', got none for 1 rows: 4; list those .*labels=FILE"):
        load_task(table)
    (tmp_path / "labels.csv").write_text(f"id,label\n4,{table.class_names[1]}\n0,{table.class_names[0]}\n")
    data = load_task(table, labels=tmp_path / "labels.csv")
    assert data.splits["train"].targets.tolist() == [0, 1]
    none = save(tmp_path, images=PIXELS, labels=np.full(12, -1), split=SPLIT)
    assert NpzData(none, class_names=["bad", "good"]).table().class_names == ("bad", "good")
    with pytest.raises(DataError, match="no row is labelled; give class_names"):
        NpzData(none).table()


def test_gray_images_with_text_labels_and_no_split(tmp_path: Path) -> None:
    labels = np.array(["10", "9"] * 50)
    patients = np.repeat(np.arange(25), 4)
    path = save(tmp_path, x=GENERATOR.integers(0, 256, (100, 3, 3), dtype=np.uint8), y=labels, patient_id=patients)
    data = load_task(NpzData(path).table(), selection=Selection(max_train=20))
    assert data.spec.class_names == ("9", "10")
    sizes = [len(data.splits[name]) for name in SPLITS]
    assert sizes[0] == 20
    assert sizes[1:] == [16, 20]
    members = [set(data.splits[name].groups or ()) for name in SPLITS]
    assert len(set.union(*members)) == sum(map(len, members))
    row = int(data.splits["test"].ids[3])
    assert data.splits["test"].targets[3] == ["9", "10"].index(labels[row])


def test_sixteen_bits_and_floats_follow_the_stated_rule(tmp_path: Path) -> None:
    values = np.zeros((12, 1, 4), dtype=np.uint16)
    values[:, 0] = [0, 257, 32768, 65535]
    table = NpzData(save(tmp_path, images=values, labels=LABELS, split=SPLIT)).table()
    assert load_task(table, selection=KEEP).splits["test"].images[0, 0, 0].tolist() == [0, 1, 128, 255]
    floats = np.tile(np.array([0.0, 0.2, 1.0], dtype=np.float32), (12, 1, 1))
    table = NpzData(save(tmp_path, images=floats, labels=LABELS, split=SPLIT)).table()
    assert load_task(table, selection=KEEP).splits["test"].images[0, 0, 0].tolist() == [0, 51, 255]
    with pytest.raises(DataError, match=r"\[0, 1\], got 0 to 255"):
        load_task(NpzData(save(tmp_path, images=floats * 255, labels=LABELS, split=SPLIT)).table())
    with pytest.raises(DataError, match="got int64"):
        load_task(NpzData(save(tmp_path, images=floats.astype(np.int64), labels=LABELS, split=SPLIT)).table())


def test_features_are_scaled_by_the_training_split(tmp_path: Path) -> None:
    features = np.array([[0.0], [2.0]] * 3 + [[1.0]] * 2 + [[-2.0], [4.0], [1.0], [99.0]])  # training: mean 1, std 1
    for key in ("features", "x"):
        table = NpzData(save(tmp_path, **{key: features}, targets=LABELS, split=SPLIT), cell=1).table()
        data = load_task(table, selection=KEEP)
        assert data.splits["test"].images.flatten().tolist() == [0, 255, 128, 255]
        assert data.spec.support is not None
        assert data.spec.support.tolist() == [[True]]


def test_equal_features_in_two_splits_are_found_before_they_are_rounded(tmp_path: Path) -> None:
    features = np.arange(24.0).reshape(12, 2)
    features[[1, 9]] = [[5.0], [5.0 + 1e-9]]  # they look the same
    for key in ("features", "x"):
        near = NpzData(save(tmp_path, **{key: features}, labels=LABELS, split=SPLIT)).table()
        load = load_task(near)
        assert torch.equal(load.splits["train"].images[1], load.splits["test"].images[1])
        equal = features.copy()
        equal[9] = equal[1]
        table = NpzData(save(tmp_path, **{key: equal}, labels=LABELS, split=SPLIT)).table()
        with pytest.raises(DataError, match=r"1 images of 'train' are also in a later split: 1 = 9;"):
            load_task(table)
        assert len(load_task(table, selection=Selection(duplicates="drop")).splits["train"]) == 5


def test_correlations_keep_the_rest_of_the_square_free(tmp_path: Path) -> None:
    values = np.tile(np.array([[-127, 0, 127]], dtype=np.int8), (12, 1))
    subjects = np.array([f"s{row}" for row in range(12)])
    path = save(tmp_path, corr_int8=values, scale=np.float32(1 / 127), labels=LABELS, split=SPLIT, subject_id=subjects)
    data = load_task(NpzData(path).table(), selection=KEEP)
    assert data.splits["val"].images[0, 0].tolist() == [[0, 0, 128], [0, 0, 255], [0, 0, 0]]
    assert data.spec.support is not None
    assert data.spec.support.sum() == 3
    assert data.splits["val"].ids == data.splits["val"].groups == ("s6", "s7")
    with pytest.raises(DataError, match="scale"):
        load_task(NpzData(save(tmp_path, corr_int8=values, labels=LABELS, split=SPLIT)).table())


def test_subjects_with_several_rows_are_groups_but_no_ids(tmp_path: Path) -> None:
    subjects = np.array([f"s{row // 2}" for row in range(12)])
    val = load_task(
        NpzData(save(tmp_path, images=PIXELS, labels=LABELS, split=SPLIT, subject_id=subjects)).table()
    ).splits["val"]
    assert val.ids == ("6", "7")
    assert val.groups == ("s3", "s3")


def test_a_stored_split_that_leaks_is_refused(tmp_path: Path) -> None:
    groups = np.array(["g"] * 12)
    with pytest.raises(DataError, match="1 groups leak"):
        load_task(NpzData(save(tmp_path, images=PIXELS, labels=LABELS, split=SPLIT, group=groups)).table())


def medmnist_file(folder: Path, labels: int = 2) -> str:
    arrays = {f"{name}_images": PIXELS[name == SPLIT] for name in SPLITS}
    arrays |= {f"{name}_labels": (np.arange(12) % labels)[name == SPLIT, None].astype(np.uint8) for name in SPLITS}
    return save(folder, **arrays)


def test_the_layout_of_medmnist(tmp_path: Path) -> None:
    data = load_task(NpzData(medmnist_file(tmp_path), class_names=["no", "yes"]).table())
    assert [len(data.splits[name]) for name in SPLITS] == [6, 2, 4]
    assert data.splits["test"].ids == ("test/0", "test/1", "test/2", "test/3")
    assert data.splits["test"].targets.tolist() == [0, 1, 0, 1]
    assert torch.equal(data.splits["test"].images, torch.from_numpy(PIXELS[8:]).permute(0, 3, 1, 2))
    assert data.spec.class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, r"one of \['labels'"),
        ({"images": PIXELS, "labels": LABELS[:5]}, "'images': 12, 'labels': 5"),
        ({"images": PIXELS, "labels": LABELS, "ids": np.array(["a", "b"])}, "'ids': 2"),
        ({"images": PIXELS, "labels": LABELS, "ids": np.array(["a"] * 12), "split": SPLIT}, "unique ids, got a"),
        ({"images": PIXELS, "labels": LABELS * 2}, r"without a gap, got \[0, 2\]"),
        ({"images": PIXELS, "labels": LABELS * 2, "class_names": np.array(["a", "b"])}, r"got 0\.\.2"),
        ({"images": PIXELS, "labels": LABELS * 0.5}, "one label a row"),
        ({"images": PIXELS, "labels": np.zeros((12, 14), dtype=int)}, "multi-label"),
        ({"images": PIXELS.transpose(0, 3, 1, 2), "labels": LABELS}, "channels last"),
        ({"train_images": PIXELS, "train_labels": LABELS}, "'val_images'"),
        ({"images": np.array([None] * 12), "labels": LABELS}, "plain arrays"),
        ({"features": np.array([["a"]] * 12), "labels": LABELS}, "features of numbers"),
        ({"features": PIXELS, "labels": LABELS}, "features of numbers"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "at least 3 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(NpzData(save(tmp_path, **arrays)).table())


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.npz").write_bytes(content)
    with pytest.raises(DataError, match="plain arrays"):
        load_task(NpzData(str(tmp_path / "broken.npz")).table())
    np.save(tmp_path / "array.npy", PIXELS)
    with pytest.raises(DataError, match="plain arrays"):
        load_task(NpzData(str(tmp_path / "array.npy")).table())
    with pytest.raises(DataError, match="no such file"):
        load_task(NpzData(str(tmp_path / "absent.npz")).table())


def test_medmnist_by_name_takes_a_local_file_and_the_published_facts(tmp_path: Path) -> None:
    pytest.importorskip("medmnist")
    data = load_task(MedMnistData("breastmnist", path=medmnist_file(tmp_path)).table())
    assert data.spec.class_names == ("malignant", "normal, benign")
    assert data.spec.licence == "CC BY 4.0"
    assert not data.spec.private
    assert data.splits["val"].targets.tolist() == [0, 1]
    turned = load_task(
        MedMnistData("breastmnist", path=medmnist_file(tmp_path), class_names=["normal, benign", "malignant"]).table()
    )
    assert turned.splits["val"].targets.tolist() == [1, 0]
    assert MedMnistData("retinamnist", path=medmnist_file(tmp_path)).table().ordinal


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("chestmnist", 28, "several labels"),
        ("organmnist3d", 28, "three-dimensional"),
        ("dermmnist", 28, "is no MedMNIST set.*'dermamnist'"),
        ("dermamnist", 32, r"one of \[28, 64"),
    ],
)
def test_unusable_medmnist_sets_are_refused_by_name(name: str, size: int, message: str) -> None:
    pytest.importorskip("medmnist")
    with pytest.raises(ConfigError, match=message):
        MedMnistData(name, size=size)


def test_a_medmnist_file_is_found_fetched_or_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("medmnist")
    from torchvision.datasets import utils

    def offline(url: str, root: str, filename: str, md5: str) -> None:
        raise OSError(f"no network for {url} {filename} {md5}")

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        Path(medmnist_file(Path(root))).rename(Path(root) / filename)

    task = MedMnistData("dermamnist", size=64, root=str(tmp_path / "new"))
    monkeypatch.setattr(utils, "download_url", offline)
    with pytest.raises(
        DataError, match=r"dermamnist_64\.npz\S* by hand and save it as .*new/dermamnist_64\.npz.*data\.path"
    ):
        load_task(task.table())
    with pytest.raises(DataError, match="no such file"):
        load_task(MedMnistData("dermamnist", root=str(tmp_path), download=False).table())
    monkeypatch.setattr(utils, "download_url", fetch)
    assert task.table().split == tuple(SPLIT.tolist())
    monkeypatch.setattr(utils, "download_url", offline)
    kept = MedMnistData("dermamnist", size=64, root=str(tmp_path / "new"), download=False)
    assert kept.table().split == tuple(SPLIT.tolist())


ASSETS = {
    "retinamnist": ([1080, 120, 400], [174, 46, 92, 68, 20], (28, 28)),
    "ham10000_64": ([1432, 204, 409], [27, 40, 87, 9, 74, 160, 12], (64, 64)),
    "abide1_cc200_corr": ([541, 76, 154], [79, 75], (200, 200)),
    "pneumonia_28": ([4228, 470, 524], [135, 389], (28, 28)),
    "mnist_t10k_dev": ([5623, 600, 1276], None, (28, 28)),
}


@pytest.mark.parametrize("name", ASSETS)
def test_the_shared_files_load_with_their_published_counts(name: str, assets: Path) -> None:
    sizes, test_counts, image_size = ASSETS[name]
    data = load_task(NpzData(str(assets / "data" / f"{name}.npz")).table())
    assert [len(data.splits[split]) for split in SPLITS] == sizes
    assert data.spec.image_size == image_size
    if test_counts:
        assert data.splits["test"].targets.bincount().tolist() == test_counts
    if name == "abide1_cc200_corr":
        assert data.spec.support is not None
        assert data.spec.support.sum() == 19_900
        assert data.splits["test"].images.float()[:, 0, data.spec.support].mean() == pytest.approx(127.5, abs=5)
    if name == "ham10000_64":
        assert data.spec.class_names == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
        assert all(group.startswith("HAM_") for group in data.splits["test"].groups or [""])


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    names = np.array(["Zürich".encode()] * 12)
    for key in ("ids", "group", "site", "split"):
        path = save(tmp_path, **{"images": PIXELS, "labels": LABELS, key: names})
        with pytest.raises(DataError, match=rf"toy\.npz: expected {key} as text, got bytes beyond ASCII"):
            NpzData(path).table()


def test_an_id_may_be_called_nan(tmp_path: Path) -> None:
    ids = np.array(["nan", *map(str, range(11))])
    assert NpzData(save(tmp_path, images=PIXELS, labels=LABELS, ids=ids)).table().ids[0] == "nan"


def test_what_is_not_a_number_is_not_known(tmp_path: Path) -> None:
    site = np.array(["A", "B", "nan"] * 4)
    data = NpzData(save(tmp_path, images=PIXELS, labels=LABELS, split=SPLIT, site=site)).table()
    assert data.attributes["site"][:3] == ("A", "B", "")
    group = np.where(np.arange(12) == 7, np.nan, np.arange(12.0))
    with pytest.raises(DataError, match="1 rows have no group: 7; fill it in"):
        NpzData(save(tmp_path, images=PIXELS, labels=LABELS, split=SPLIT, group=group)).table()
