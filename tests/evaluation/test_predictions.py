import csv

import numpy as np
import pytest

from reprogram.errors import DataError, ShapeError
from reprogram.evaluation.predictions import Predictions, read_csv, write_csv

NAMES = ("benign", 'nevus, "atypical"', "score_id")


def predictions(split: str = "val", scores: list[list[float]] | None = None, **changed: object) -> Predictions:
    rows = np.array([[0.1 + 0.2, 0.3, 0.4], [1 / 3, 1 / 3, 1 - 2 / 3], [0.0, 1.0, 0.0]] if scores is None else scores)
    fields = {"ids": ("a", "b,c", 'd"e'), "targets": np.array([2, 0, 1]), "scores": rows} | changed
    return Predictions(split, **fields)  # type: ignore[arg-type]


def test_csv_round_trip_is_exact(tmp_path):
    path = tmp_path / "predictions.csv"
    written = [predictions("val"), predictions("test", targets=np.array([0, 0, 2]))]
    write_csv(path, written, NAMES)
    read, names = read_csv(path)
    assert names == NAMES
    assert [entry.split for entry in read] == ["val", "test"]
    for before, after in zip(written, read, strict=True):
        assert after.ids == before.ids
        assert after.groups is None
        np.testing.assert_array_equal(after.targets, before.targets)
        np.testing.assert_array_equal(after.scores, before.scores)


WEIRD = {"score_b, c": ("m", "", 'ü "x"'), "group": ("1", "2", "3"), "": ("nan", "meta_", "a\nb")}


@pytest.mark.parametrize("groups", [None, ("p1", "p,2", "p1")])
@pytest.mark.parametrize("attributes", [{}, WEIRD])
def test_groups_and_attributes_come_back_whatever_they_are_called(tmp_path, groups, attributes):
    path, names = tmp_path / "predictions.csv", ("group", "meta_a, b", "target")
    val, test = predictions("val", groups=groups, attributes=attributes), predictions("test", attributes=attributes)
    write_csv(path, [val, test], names)
    (read_val, read_test), read_names = read_csv(path)
    assert read_names == names
    assert (read_val.groups, read_test.groups) == (groups, None)
    assert read_val.attributes == read_test.attributes == attributes
    assert list(read_val.attributes) == list(attributes)
    for before, after in ((val, read_val), (test, read_test)):
        assert after.ids == before.ids
        np.testing.assert_array_equal(after.scores, before.scores)


def test_optional_columns_are_where_they_were_agreed(tmp_path):
    path = tmp_path / "predictions.csv"
    attributes = {"site": ("NYU", "", "UM"), "age": ("9", "10", "")}
    write_csv(path, [predictions(groups=("p1", "p2", "p1"), attributes=attributes)], ("a", "b", "c"))
    lines = path.read_text().splitlines()
    assert lines[0] == "id,split,target,group,meta_site,meta_age,score_a,score_b,score_c"
    assert lines[1].startswith("a,val,c,p1,NYU,9,0.3")
    assert lines[2].startswith('"b,c",val,a,p2,,10,')


def test_splits_of_other_attributes_are_refused(tmp_path):
    site = {"site": ("NYU", "", "UM")}
    with pytest.raises(DataError, match=r"attributes \['site'\] in every split, got \[\] in 'test'"):
        write_csv(tmp_path / "p.csv", [predictions(attributes=site), predictions("test")], NAMES)


def test_a_subset_is_its_rows_with_all_that_is_known_of_them():
    whole = predictions(groups=("p1", "p2", "p3"), attributes={"site": ("NYU", "", "UM")})
    part = whole.subset([2, 0])
    assert (part.split, part.ids, part.groups) == ("val", ('d"e', "a"), ("p3", "p1"))
    assert part.attributes == {"site": ("UM", "NYU")}
    assert part.targets.tolist() == [1, 2]
    np.testing.assert_array_equal(part.scores, whole.scores[[2, 0]])
    assert predictions().subset([1]).groups is None


def test_csv_has_exactly_the_agreed_columns(tmp_path):
    path = tmp_path / "predictions.csv"
    write_csv(path, [predictions()], NAMES)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "split", "target", "score_benign", 'score_nevus, "atypical"', "score_score_id"]
    assert rows[1] == ["a", "val", "score_id", "0.30000000000000004", "0.3", "0.4"]


def test_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("old")
    ids: tuple[object, ...] = ("a", "b", "\ud800")  # a lone surrogate cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write_csv(path, [predictions(ids=ids)], NAMES)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]


def test_write_refuses_wrong_names_and_doubled_splits(tmp_path):
    with pytest.raises(ShapeError, match="expected 2 scores"):
        write_csv(tmp_path / "p.csv", [predictions()], ["a", "b"])
    with pytest.raises(DataError, match="every split once"):
        write_csv(tmp_path / "p.csv", [predictions(), predictions()], NAMES)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"scores": np.array([[0.5, 0.2, 0.2]] * 3)}, DataError, "sum to one"),
        ({"scores": np.array([[-0.5, 1.2, 0.3]] * 3)}, DataError, "sum to one"),
        ({"scores": np.array([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4], [np.nan, 0.5, 0.5]])}, DataError, 'nan.*d"e'),
        ({"scores": np.full((3, 3), 1 / 3, dtype=np.float32)}, ShapeError, "float32"),
        ({"scores": np.ones((3, 1))}, ShapeError, "K_t >= 2"),
        ({"targets": np.array([0, 1, 3])}, DataError, r"0\.\.2, got 0\.\.3"),
        ({"targets": np.array([0, -1, 2])}, DataError, r"got -1\.\.2"),
        ({"targets": np.array([0, 1])}, ShapeError, "targets"),
        ({"targets": np.array([0.0, 1.0, 2.0])}, ShapeError, "int64"),
        ({"ids": ("a", "b")}, ShapeError, "3 ids"),
        ({"groups": ("a", "b")}, ShapeError, "3 groups"),
        ({"attributes": {"site": ("a", "b")}}, ShapeError, "3 site"),
        ({"ids": (), "targets": np.zeros(0, int), "scores": np.zeros((0, 3))}, DataError, "at least one"),
    ],
)
def test_what_no_metric_could_use_is_refused(changed, error, message):
    with pytest.raises(error, match=message):
        predictions(**changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected columns"),
        ("id,split,label,score_a,score_b\n", "expected columns"),
        ("id,split,target,score_a,group,score_b\n", "expected columns"),
        ("id,split,target,score_a,meta_site,score_b\n", "expected columns"),
        ("id,split,target,score_a,score_b\n1,val,a,0.5,0.5\n2,val,c,0.5,0.5\n", "line 3"),
        ("id,split,target,score_a,score_b\n1,val,a,0.5\n", "line 2"),
        ("id,split,target,score_a,score_b\n1,val,a,0.5,half\n", "line 2"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(path)


def test_a_missing_file_is_our_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_csv(tmp_path / "predictions.csv")
