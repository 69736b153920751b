"""``reprogram-report`` as a user types it."""

import json
import sys
from pathlib import Path

import pytest
from fabricated import make_run, rows

from reprogram.commands import report


@pytest.fixture
def run(monkeypatch, capfd, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reprogram-report", *arguments])
        code = 0
        try:
            report.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capfd.readouterr()

    return command


def test_help_reads_as_a_manual_page(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("NAME", "EXAMPLES", "compare=[runs/a,runs/b]", "num_resamples: 1000"):
        assert word in out


def test_a_report_is_written_where_it_says(run, tmp_path):
    make_run(tmp_path / "runs" / "0")
    code, out, _ = run("runs=runs/*", "num_resamples=20")
    assert code == 0
    assert out == "runs     1, experiments 1\nreport   report/report.html\nreport   report/report.md\n"
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert run("runs=[runs/0]", "output=elsewhere", "num_resamples=20")[0] == 0
    assert (tmp_path / "elsewhere" / "report.md").is_file()


def test_a_comparison_is_printed_and_written_only_if_asked_for(run, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", skills={"reprogrammed": 0.3})
    code, out, _ = run("compare=[a,b]", "num_resamples=20")
    assert code == 0
    assert "60 test examples" in out
    assert "AUROC" in out
    assert not list(tmp_path.glob("**/compare.json"))
    assert run("compare=[a,b]", "output=out", "num_resamples=20")[0] == 0
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert record["examples"] == 60
    assert set(record["differences"]["auroc"]) == {"value", "low", "high", "p_value"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of runs and compare"),
        (["runs=a", "compare=[a,b]"], "expected one of runs and compare"),
        (["compare=[a]"], "expected two runs or patterns, compare=[A,B]"),
        (["compare=a"], "expected two runs or patterns"),
        (["runs=nothing/*"], "no run directory matches nothing/*"),
        (["runs=a", "num_resamples=0"], "num_resamples >= 1"),
        (["runs=a", "num_resamples=many"], "num_resamples: expected a whole number, got many"),
        (["compare=[a,b]"], "2 are in one of the two only: row58, row59"),
        (["run=a"], "did you mean runs"),
    ],
)
def test_mistakes_are_answered_without_a_traceback(run, tmp_path, arguments, message):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", rows(0, 58))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
