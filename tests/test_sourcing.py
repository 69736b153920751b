"""What precision a source computes in: by what it is for, and what the hardware gains."""

from typing import Any

import pytest

from reprogram import sourcing
from reprogram.sources import prepared
from reprogram.sources.prepared import PreparedSource
from reprogram.types import TaskSpec

TASK = TaskSpec("toy", ("a", "b"), (8, 8))
WHITE, BLACK = {"_target_": None}, {"_target_": "reprogram.sources.black_box.BlackBox"}


@pytest.fixture(autouse=True)
def _gains(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (prepared, sourcing):
        monkeypatch.setattr(module, "gains_from_bfloat16", lambda device_type: True)


def choice(access: dict[str, Any], precision: str = "auto") -> dict[str, Any]:
    block = {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": True, "precision": precision}
    return {"source": block, "access": access}


def precision(source: object) -> str:
    assert isinstance(source, PreparedSource)
    return source.precision


def test_a_white_box_is_trained_in_bfloat16_and_scored_in_float32() -> None:
    cfg = choice(WHITE)
    trained = sourcing.training_source(cfg, "cpu", TASK)
    assert precision(trained) == "bfloat16"
    scoring = sourcing.scoring_source(cfg, "cpu", TASK, trained)
    assert precision(scoring) == precision(sourcing.source(cfg, "cpu", TASK)) == "float32"
    assert scoring.fingerprint == trained.fingerprint


def test_a_black_box_is_the_same_all_along() -> None:
    cfg = choice(BLACK)
    trained = sourcing.training_source(cfg, "cpu", TASK)
    assert precision(trained) == "float32"
    assert sourcing.scoring_source(cfg, "cpu", TASK, trained) is trained


def test_a_precision_that_is_asked_for_is_kept() -> None:
    cfg = choice(WHITE, "bfloat16")
    trained = sourcing.training_source(cfg, "cpu", TASK)
    assert precision(trained) == "bfloat16"
    assert sourcing.scoring_source(cfg, "cpu", TASK, trained) is trained


def test_what_gains_nothing_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sourcing, "gains_from_bfloat16", lambda device_type: False)
    cfg = choice(WHITE)
    trained = sourcing.training_source(cfg, "cpu", TASK)
    assert sourcing.scoring_source(cfg, "cpu", TASK, trained) is trained
