"""Every attack that can be chosen can be made."""

from pathlib import Path

import pytest
import yaml

from reprogram.attacks.base import GradientAttack, QueryAttack
from reprogram.instantiation import call

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "attack").glob("*.yaml"))


def test_there_are_attacks_of_both_kinds() -> None:
    assert {path.stem for path in CONFIGS} >= {"fgsm", "pgd", "one_pixel", "square", "zoo"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_attack_is_made_as_its_file_says(path: Path) -> None:
    block = yaml.safe_load(path.read_text(encoding="utf-8"))
    attack = call(block, "attack", seed=3)
    assert attack.name == path.stem
    assert isinstance(attack, GradientAttack | QueryAttack)
    assert getattr(attack, "seed", 3) == 3
    for key, value in block.items():
        if key not in ("_target_", "step_size"):
            assert getattr(attack, key) == value
