import pytest
from fabricated import make_run, rows

from reprogram.errors import ConfigError, DataError, RunError
from reprogram.evaluation.intervals import paired_differences, with_intervals
from reprogram.reports.collect import read_run
from reprogram.reports.comparison import compare

KFOLD = {"_target_": "reprogram.data.protocols.KFold", "folds": 2}
WEAK = {"reprogrammed": 0.3}


def test_two_runs_are_compared_on_the_same_resamples(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", skills=WEAK)
    found = compare(str(a), str(b), 300)
    first, second = (read_run(path).tested["reprogrammed"] for path in (a, b))
    assert found.differences == paired_differences(first, second, list(found.differences), 300)
    assert found.sides["B"] == with_intervals(second, True, 300)
    assert found.differences["balanced_accuracy"]["value"] > 0.2
    assert found.differences["balanced_accuracy"]["p_value"] < 0.05
    assert found.examples == 60
    assert found.headings["A"].startswith("ham10000 · resnet50 · white box · frame + linear (")


def test_folds_are_pooled_whatever_their_cut(tmp_path):
    for name, skills, cut in (("a", {"reprogrammed": 2.0}, 20), ("b", WEAK, 35)):
        for fold, ids in enumerate((rows(0, cut), rows(cut, 60))):
            make_run(tmp_path / name / str(fold), ids, 0, skills, config={"protocol": {**KFOLD, "fold": fold}})
    found = compare(f"{tmp_path}/a/*", f"{tmp_path}/b/*", 50)
    assert found.examples == 60
    parts = [read_run(tmp_path / "b" / str(fold)).tested["reprogrammed"] for fold in range(2)]
    right = sum((part.scores.argmax(axis=1) == part.targets).sum() for part in parts)
    assert found.sides["B"]["accuracy"]["value"] == pytest.approx(right / 60)


def test_other_test_rows_are_refused_by_number_and_name(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", rows(2, 60))
    with pytest.raises(DataError, match="compare: expected predictions of the same test rows, got 58 and 60, of which "
                                        "2 are in one of the two only: row0, row1; "):  # fmt: skip
        compare(str(a), str(b))


def test_other_classes_are_refused(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", classes=("no", "yes"))
    with pytest.raises(DataError, match="expected the same classes"):
        compare(str(a), str(b))


def test_a_side_is_one_experiment_of_readable_runs(tmp_path):
    make_run(tmp_path / "a" / "0")
    make_run(tmp_path / "a" / "1", config={"program": {"size": 9}})
    b = make_run(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"one experiment as A, got 2: .*program.size=null; .*program.size=9"):
        compare(f"{tmp_path}/a/*", str(b))
    (b / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"1 runs of B cannot be read: .*/b: expected a finished run"):
        compare(f"{tmp_path}/a/0", str(b))
