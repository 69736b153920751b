"""What the terminal shows of an attack."""

import pytest

from reprogram.attacks.report import METRICS, print_outcome


def test_small_strengths_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"strength": level, **dict.fromkeys(METRICS, interval)} for level in (0.0, 0.0002, 0.004, 0.063)]
    facts = {"task": "toy", "source": "linear", "target": "classifier", "split": "test", "output": "here"}
    counts = {"fooled": 1, "attacked": 2, "examples": 4, "queries": None, "median_queries": None}
    print_outcome({**facts, **counts, "attack": {"name": "fgsm"}, "measure": "strength", "curve": rows})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines if len(line) > 1 and line[1] == "0.500"] == ["0", "0.0002", "0.004", "0.063"]
