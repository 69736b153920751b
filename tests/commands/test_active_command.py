"""``reprogram-active``: its manual page, what it prints, and what it refuses."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from reprogram.commands import active

pytest.importorskip("skactiveml")

QUICK = (
    "protocol.max_train=40", "protocol.max_val=30", "protocol.max_test=30", "trainer.max_epochs=1", "logger=none",
    "trainer.enable_progress_bar=false", "evaluation.num_resamples=20", "evaluation.baselines=[]",
    "active.fractions=[0.5]",
)  # fmt: skip


@pytest.fixture
def run(run_command):
    return partial(run_command, active)


def test_help_reads_as_a_manual_page(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for word in ("NAME", "EXAMPLES", "STRATEGIES", "active.labels=person", "active.price_per_label"):
        assert word in out


def test_a_simulation_prints_its_curve_and_where_everything_is(run, tmp_path: Path) -> None:
    code, out, _ = run("data=digits", "active=random", *QUICK)
    assert code == 0
    heads, row, *rest = (line for line in out.splitlines() if line.strip())
    assert heads.split()[:2] == ["round", "labels"]
    assert row.split()[:2] == ["1", "20"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("active_")
    assert f"run      {folder / 'round_1' / 'run'}" in rest
    assert f"records  {folder}" in rest


def test_a_person_is_told_what_to_fill(run, tmp_path: Path) -> None:
    digits = load_digits()
    split = np.array(["train"] * 40 + ["val"] * 30 + ["test"] * 30)
    labels = np.where(split == "train", -1, digits.target[:100])
    names = np.array([str(name) for name in range(10)])
    images = (digits.images[:100] * 15).astype(np.uint8)
    np.savez("scans.npz", images=images, labels=labels, split=split, class_names=names)
    line = ("data=npz", "data.path=scans.npz", "active=random", "active.labels=person", "run_dir=scans", *QUICK)
    code, out, _ = run(*line)
    assert code == 0
    sheet = tmp_path / "scans" / "round_1" / "sheet.csv"
    assert f"waiting  20 examples to label: fill {sheet}" in out
    sheet.write_text(sheet.read_text().replace(",", ",11", 2).replace(",11label", ",label"))
    code, out, err = run(*line)
    assert code == 2
    assert "11" in err
    assert "Traceback" not in err


def test_without_a_run_dir_the_rounds_of_the_same_choices_go_on(run, tmp_path: Path) -> None:
    line = ("data=digits", "active=random", *QUICK)
    for others in ((), ("active.fractions=[0.5,0.75]",), ("active.partial=true", "active.confidence=0.99")):
        assert run(*line, *others)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.glob("round_*")) == ["round_1", "round_2"]
    assert run(*line, "seed=1")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["active=margn"], "active=margn: there is no such choice; did you mean margin"),
        (["active.max_label=3"], "did you mean active.max_labels"),
        (["active.fractions=0.5"], "active.fractions: expected"),
        (["active.strategy=null"], "active.strategy: expected a block with _target_"),
        (["active.labels=nobody"], "active.labels: expected one of data, person, got 'nobody'"),
        (["program.size=abc"], "program.size: expected int"),
        (["run_dir=taken"], "taken"),
    ],
)
def test_mistakes_get_one_line_and_make_nothing(run, tmp_path: Path, arguments, message) -> None:
    (tmp_path / "taken").write_text("a file")
    code, _, err = run("data=digits", *QUICK, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
