import json

import pytest
from fabricated import CLASSES, make_run, rows

from reprogram.errors import ConfigError
from reprogram.reports.collect import collect, without_folders


def test_runs_are_found_by_pattern_folder_and_name(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "summary.md").touch()
    for patterns in (f"{tmp_path}/sweep/*", str(tmp_path / "sweep"), [f"{tmp_path}/sweep/a", f"{tmp_path}/sweep/*"]):
        runs, skipped = collect(patterns)
        assert [run.name for run in runs] == ["sweep/a", "sweep/b"]
        assert skipped == {}
    (run, _) = runs
    assert run.classes == CLASSES
    assert list(run.tested) == ["reprogrammed", "majority", "linear_probe"]
    assert run.tested["majority"].ids == tuple(rows(0, 60))
    assert run.tested["reprogrammed"].groups[:3] == ("patient0", "patient0", "patient1")


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no run directory matches"):
        collect(f"{tmp_path}/nothing/*")


def edit(path, change) -> None:
    record = json.loads((path / "metrics.json").read_text())
    change(record)
    (path / "metrics.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "metrics.json").unlink(), "expected a finished run"),
        (lambda path: (path / "config.yaml").unlink(), "holds no config.yaml"),
        (lambda path: (path / "config.yaml").write_text("a: [1"), "config.yaml: cannot be read"),
        (lambda path: (path / "metrics.json").write_text('{"task": '), "metrics.json: damaged"),
        (lambda path: (path / "metrics.json").write_text("3"), "metrics.json: damaged"),
        (lambda path: edit(path, lambda record: record["data"].clear()), "damaged (data.licence, data.private"),
        (lambda path: edit(path, lambda record: record.update(timing=None, seed="x")), "damaged (seed, timing)"),
        (lambda path: (path / "predictions.csv").write_bytes(b"id,\xff\xfe"), "expected the predictions.csv"),
        (lambda path: edit(path, lambda record: record.pop("data")), "damaged (data)"),
        (
            lambda path: edit(path, lambda record: record.update(schema_version=1)),
            "made by an older version; train again",
        ),
        (lambda path: edit(path, lambda record: record.pop("schema_version")), "made by an older version"),
        (lambda path: edit(path, lambda record: record.update(schema_version=99)), "made by a newer version"),
        (lambda path: (path / "predictions_majority.csv").unlink(), "predictions_majority.csv: no such file"),
        (lambda path: (path / "predictions.csv").write_text("id,split\n"), "predictions.csv: expected columns"),
    ],
)
def test_a_run_that_cannot_be_read_is_named_with_the_reason(tmp_path, damage, reason):
    make_run(tmp_path / "whole")
    broken = make_run(tmp_path / "broken")
    damage(broken)
    runs, skipped = collect(f"{tmp_path}/*")
    assert [run.path.name for run in runs] == ["whole"]
    assert list(skipped) == [broken]
    assert reason in skipped[broken]
    assert not skipped[broken].startswith(str(tmp_path))


def test_a_baseline_of_other_rows_is_damage(tmp_path):
    path = make_run(tmp_path / "run")
    lines = (path / "predictions_majority.csv").read_text().splitlines(keepends=True)
    (path / "predictions_majority.csv").write_text("".join(lines[:-1]))
    runs, skipped = collect(path)
    assert not runs
    assert skipped[path] == "predictions_majority.csv: damaged (expected the 60 test rows of predictions.csv)"


def test_an_existing_folder_is_no_pattern(tmp_path):
    make_run(tmp_path / "run[1]")
    assert [found.path.name for found in collect(str(tmp_path / "run[1]"))[0]] == ["run[1]"]


def test_folders_of_this_machine_are_left_out_and_interpolations_are_not():
    assert without_folders("data.path=/home/me/secret/a.npz x/y") == "data.path=a.npz x/y"
    assert without_folders("data.path=${oc.env:DIR}/data/a.npz") == "data.path=${oc.env:DIR}/data/a.npz"
