"""``reprogram-attack`` as a user types it."""

from functools import partial
from typing import Any

import pytest

from reprogram.attacks.report import print_outcome
from reprogram.commands import attack


@pytest.fixture
def typed(run_command):
    return partial(run_command, attack)


def test_help_names_the_attacks(typed) -> None:
    code, out, _ = typed("--help")
    assert code == 0
    for word in ("NAME", "fgsm, pgd", "one_pixel, square, zoo", "target: classifier", "docs/attacks.md"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run: is required; set run=..."),
        (["run=x", "attack=sqare"], "attack=sqare: there is no such choice; did you mean square?"),
        (["run=x", "atack.steps=3"], "did you mean attack"),
        (["run=x", "attack.step=3"], "did you mean attack.steps"),
        (["run=nowhere"], "nowhere: expected a run directory"),
    ],
)
def test_a_mistake_gets_one_message(typed, arguments: list[str], message: str) -> None:
    code, out, err = typed(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err


def test_the_curve_and_the_queries_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    record: dict[str, Any] = {
        "measure": "queries", "target": "source", "source": "resnet", "task": "skin", "split": "test",
        "attack": {"name": "zoo"}, "examples": 10, "attacked": 9, "fooled": 4, "median_queries": 32.0,
        "curve": [{"queries": 0.0, "accuracy": interval, "balanced_accuracy": interval}],
        "queries": {"total": 1234, "cost": 2.5}, "output": "out",
    }  # fmt: skip
    print_outcome(record)
    printed = capsys.readouterr().out
    for words in (
        "zoo against resnet, test split [95 % interval]",
        "0.500 [0.25, 0.75]",
        "4 of 9 images fooled that were right before, of 10",
        "1,234 queries, cost 2.50; median of the fooled 32",
        "records  out",
    ):
        assert words in printed
    print_outcome({**record, "target": "classifier", "queries": None, "median_queries": None})
    printed = capsys.readouterr().out
    assert "zoo against skin" in printed
    assert "1,234" not in printed
