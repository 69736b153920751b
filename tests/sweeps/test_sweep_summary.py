import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reprogram.sweeps.importance import importance
from reprogram.sweeps.rows import Row, brief, finished, front
from reprogram.sweeps.summary import conclusion, summarise


def row(job: int, score: float | None, queries: int | None = None, **changes) -> Row:
    values = changes.pop("values", {"optimizer.lr": 0.1 * (job + 1), "mapping": "linear"})
    test = None if score is None else {"value": score - 0.05, "low": score - 0.1, "high": None}
    kept = {"state": "finished", "metric": "balanced_accuracy", "run_dir": f"runs/s/{job:03d}", **changes}
    overrides = ("data=digits", "evaluation.baselines=[]", f"optimizer.lr={0.1 * (job + 1)}")
    return Row(job, values=values, overrides=overrides, score=score, test=test, queries=queries, seconds=1.5, **kept)


ROWS = [
    row(0, 0.7),
    row(1, 0.87654),
    row(2, None, state="failed", note="out of <memory>", run_dir=""),
    row(3, 0.4, state="ended early", values={"optimizer.lr": 0.4, "mapping": None}),
]


def test_table_markdown_and_csv_say_the_same(tmp_path: Path, capsys):
    folder = tmp_path / "s"
    summarise([row_ for row_ in ROWS], folder)
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "4 runs by balanced accuracy, 1 ended early, 1 failed"
    assert "1 0.2 linear 0.877 0.827 [0.78, n/a] runs/s/001" in lines
    assert "2 0.3 linear n/a n/a failed: out of <memory>" in lines
    assert "3 0.4 null 0.400 0.350 [0.30, n/a] ended early: runs/s/003" in lines
    markdown = (folder / "summary.md").read_text()
    assert "| job | lr | mapping | val | test [95 % interval] | run |" in markdown
    assert "| 1 | 0.2 | linear | 0.877 | 0.827 [0.78, n/a] | runs/s/001 |" in markdown
    assert "failed: out of &lt;memory&gt;" in markdown
    assert "![parallel](parallel.png)" in markdown
    with (folder / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [one["state"] for one in table] == ["finished", "finished", "failed", "ended early"]
    assert float(table[1]["val"]) == 0.87654
    assert float(table[1]["optimizer.lr"]) == 0.2
    assert table[2]["note"] == "out of <memory>"


def test_the_best_line_can_be_pasted():
    best = "reprogram-train data=digits 'evaluation.baselines=[]' optimizer.lr=0.2"
    lines = conclusion(ROWS, with_front=False)
    assert lines == [
        "best     balanced accuracy 0.8765 on validation: runs/s/001",
        best,
        "failed   job 2: out of <memory>",
    ]
    assert shlex.split(best)[1:] == list(ROWS[1].overrides)
    assert conclusion([ROWS[2]], with_front=False) == ["failed   job 2: out of <memory>"]


def test_less_is_better_where_the_mode_says_so():
    rows = [row(0, 0.7, mode="min", metric="nll"), row(1, 0.2, mode="min", metric="nll")]
    assert [one.job for one in finished(rows)] == [1, 0]


def test_the_front_is_what_no_other_beats_in_both():
    rows = [row(0, 0.7, 100), row(1, 0.9, 500), row(2, 0.8, 500), row(3, 0.6, 50), row(4, 0.65, 100), row(5, 0.9, 600)]
    assert [one.job for one in front(rows)] == [1, 0, 3]
    lines = conclusion(rows, with_front=True)
    assert lines[0] == "3 runs that none beats in balanced accuracy without more queries:"
    assert lines[1] == "0.9000 for 500 queries:"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (0.123456, "0.1235"), (12345, "12345"), ("a b", "a b")]
)
def test_brief(value, text):
    assert brief(value) == text


def study_of(score) -> list[Row]:
    values = [
        {"optimizer.lr": 10.0 ** -(1 + n % 5), "mapping": ["linear", "frequency"][n // 5 % 2], "seed": n}
        for n in range(20)
    ]
    return [row(n, score(one), 100 * (1 + n % 5), values=one) for n, one in enumerate(values)]


def test_importance_finds_what_matters():
    pytest.importorskip("optuna")
    found = importance(study_of(lambda one: 0.9 if one["mapping"] == "linear" else 0.5), "score")
    assert next(iter(found)) == "mapping"
    assert found["mapping"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    found = importance(study_of(lambda one: np.log10(one["optimizer.lr"])), "score")
    assert next(iter(found)) == "optimizer.lr"
    assert importance(study_of(lambda one: 0.5), "score") == {}
    assert importance(ROWS, "score") == {}


def test_the_pictures_show_runs_and_their_colours(tmp_path: Path):
    pytest.importorskip("optuna")
    summarise(study_of(lambda one: 0.9 + 0.1 * np.log10(one["optimizer.lr"])), tmp_path, with_front=True)
    for name in ("parallel.png", "importance.png"):
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
            assert image.width > 700
            assert len(np.unique(pixels, axis=0)) > 200
    with Image.open(tmp_path / "parallel.png") as image:  # the best line is red
        red = np.all(np.abs(np.asarray(image.convert("RGB")).astype(int) - (194, 51, 28)) < 30, axis=-1)
    assert red.sum() > 200


def test_too_little_to_compare_makes_no_picture(tmp_path: Path):
    summarise([ROWS[0], ROWS[2]], tmp_path)
    assert not list(tmp_path.glob("*.png"))
    assert "![" not in (tmp_path / "summary.md").read_text()
