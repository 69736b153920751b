from pathlib import Path

from reprogram.evaluation.report import print_results, print_sweep, sweep_markdown


def score(value: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": low, "high": high}


def record(**test: dict) -> dict:
    names = ("accuracy", "balanced_accuracy", "auroc", "auprc", "sensitivity")
    weak = dict.fromkeys(names, score(0.5, 0.5, 0.5)) | {"auroc": score(None)}
    return {
        "task": "breast[bold]_cancer",
        "source": "embedded",
        "seed": 3,
        "val": {},
        "test": dict.fromkeys(names, score(0.9124, 0.8712, 0.949)) | test,
        "baselines": {"majority": {"val": {}, "test": weak}, "linear_probe": {"val": {}, "test": {}}},
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


def test_sweep_table_and_markdown_say_the_same(capsys):
    rows = [
        {
            "overrides": "seed=0 data.split=[a|b]",
            "metric": "balanced_accuracy",
            "val": score(0.87654, 0.8, 0.9),
            "test": score(0.8, 0.7, None),
            "run_dir": "runs/0",
        },
        {"overrides": "seed=1", "metric": "auroc", "val": None, "test": None, "run_dir": "runs/1"},
    ]
    print_sweep(rows)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "2 runs"
    assert "seed=0 data.split=[a|b] balanced accuracy 0.877 0.800 [0.70, n/a] runs/0" in lines
    assert "seed=1 AUROC n/a n/a runs/1" in lines
    assert sweep_markdown(rows) == (
        "| overrides | metric | val | test [95 % interval] | run |\n"
        "| --- | --- | ---: | ---: | --- |\n"
        "| seed=0 data.split=[a\\|b] | balanced accuracy | 0.877 | 0.800 [0.70, n/a] | runs/0 |\n"
        "| seed=1 | AUROC | n/a | n/a | runs/1 |\n"
    )


def test_a_wide_sweep_stays_within_the_width(capsys):
    value = score(0.8, 0.7, 0.9)
    overrides = "seed=0 program.size=32 " * 4
    print_sweep(
        [{"overrides": overrides, "metric": "balanced_accuracy", "val": value, "test": value, "run_dir": "r" * 90}]
    )
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert out.count("r") >= 90
    assert "0.800 [0.70, 0.90]" in out


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
