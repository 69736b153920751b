from pathlib import Path

import pytest

from reprogram.evaluation.report import (
    markdown_table,
    number,
    print_comparison,
    print_results,
    results_table,
    with_interval,
)


def score(value: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": low, "high": high}


def record(**test: dict) -> dict:
    names = ("accuracy", "balanced_accuracy", "auroc", "auprc", "sensitivity")
    weak = dict.fromkeys(names, score(0.5, 0.5, 0.5)) | {"auroc": score(None)}
    return {
        "task": "breast[bold]_cancer",
        "source": "embedded",
        "access": "white_box",
        "left_out": [],
        "seed": 3,
        "val": {},
        "test": dict.fromkeys(names, score(0.9124, 0.8712, 0.949)) | test,
        "baselines": {"majority": {"val": {}, "test": weak}, "linear_probe": {"val": {}, "test": {}}},
        "over_baselines": {},
        "threshold": None,
        "test_at_threshold": None,
    }


def test_results_hold_every_row_with_its_interval(capsys):
    print_results(record(auprc=score(1 / 3, -0.02, 1.0)), [])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "breast[bold]_cancer on embedded, seed 3: test split [95 % interval]"
    plain = [" ".join(line.split()) for line in lines]
    assert "accuracy balanced accuracy AUROC AUPRC" in plain
    good, poor = "0.912 [0.87, 0.95]", "0.500 [0.50, 0.50]"
    assert f"reprogrammed {good} {good} {good} 0.333 [-0.02, 1.00]" in plain
    assert f"majority {poor} {poor} n/a {poor}" in plain
    assert "linear probe n/a n/a n/a n/a" in plain
    assert max(map(len, lines)) <= 100


COMPLETE = ("majority", "raw_linear", "mapping_only", "linear_probe")


def complete(gain: float) -> dict:
    """Every baseline is there, and behind by ``gain``."""
    found = record()
    weak = {"balanced_accuracy": score(0.9124 - gain)}
    difference = {"balanced_accuracy": {**score(gain), "p_value": 0.004}}
    found["baselines"] = {name: {"val": {}, "test": weak} for name in COMPLETE}
    found["over_baselines"] = dict.fromkeys(COMPLETE, difference)
    return found


def test_a_success_is_only_printed_beside_its_baselines(capsys):
    print_results(complete(0.05), [])
    assert "Verdict: better than every baseline (balanced accuracy at least +0.050" in capsys.readouterr().out
    lacking = complete(0.05)
    del lacking["baselines"]["raw_linear"]
    print_results(lacking, [])
    assert "Verdict: no claim: baselines not computed: raw linear" in capsys.readouterr().out
    print_results(complete(-0.05), [])
    out = capsys.readouterr().out
    assert "not better in balanced accuracy (0.912) than majority (0.962, p = 0.004)" in out
    assert "better than every" not in out


@pytest.mark.parametrize("success", [True, False])
def test_only_a_success_is_bold(success):
    assert results_table(complete(0.05), ["accuracy"], success).rows[0].style == ("bold" if success else None)


def test_the_operating_point_is_shown(capsys):
    found = record()
    reached = {"sensitivity": score(0.9, 0.8, 0.95), "specificity": score(0.7, 0.6, 0.8)}
    found |= {"threshold": 0.3333, "test_at_threshold": reached}
    print_results(found, [])
    expected = "threshold 0.333 (chosen on validation): sensitivity 0.900 [0.80, 0.95], specificity 0.700 [0.60, 0.80]"
    assert expected in " ".join(capsys.readouterr().out.split())


def test_a_comparison_shows_both_and_the_difference(capsys):
    sides = {"A": {"auroc": score(0.8, 0.7, 0.9)}, "B": {"auroc": score(0.75, 0.7, 0.8)}}
    difference = {"auroc": {**score(0.05, -0.0001, 0.1), "p_value": 0.06}}
    print_comparison({"A": "ham [b]one[/b]", "B": "two"}, 154, sides, difference)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "A ham [b]one[/b]"
    assert lines[2].startswith("154 test examples")
    assert "AUROC 0.800 [0.70, 0.90] 0.750 [0.70, 0.80] +0.050 [+0.00, +0.10] 0.060" in lines


def test_markdown_cells_cannot_break_the_table():
    assert markdown_table(["a", "b"], [["x|y\nz", "<b>1</b>"]], numeric=[1]) == (
        "| a | b |\n| --- | ---: |\n| x\\|y z | &lt;b&gt;1&lt;/b&gt; |\n"
    )


def test_numbers():
    assert (number(None, 2), number(-0.0001, 2), number(0.125, 2, "+")) == ("n/a", "0.00", "+0.12")
    assert with_interval(None) == with_interval(score(None)) == "n/a"


def test_grades_show_kappa_and_plain_classes_do_not(capsys):
    graded = record(quadratic_kappa=score(0.6, 0.5, 0.7))
    del graded["test"]["sensitivity"]
    print_results(graded, [])
    out = capsys.readouterr().out
    assert "quadratic kappa" in out
    assert "0.600 [0.50, 0.70]" in out
    assert "AUPRC" not in out
    del graded["test"]["quadratic_kappa"]
    print_results(graded, [])
    assert "kappa" not in capsys.readouterr().out


def test_a_pipe_gets_no_markup_and_whole_paths(capsys):
    path = Path("runs") / ("[red]deep-" * 20) / "program.png"
    print_results(record(), [path])
    out = capsys.readouterr().out
    assert f"  {path}\n" in out
    assert "\x1b" not in out


def test_a_narrow_terminal_gets_fewer_columns_rather_than_broken_intervals(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    graded = record(quadratic_kappa=score(0.6, -0.5, 0.7))
    del graded["test"]["sensitivity"]
    print_results(graded, [])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    plain = [" ".join(line.split()) for line in lines]
    assert "reprogrammed 0.600 [-0.50, 0.70] 0.912 [0.87, 0.95] 0.912 [0.87, 0.95]" in plain
