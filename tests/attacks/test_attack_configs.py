"""Every attack that can be chosen can be made."""

from pathlib import Path

import pytest
import yaml

from reprogram.attacks.base import GradientAttack, QueryAttack, expect_shown
from reprogram.attacks.gradient import FGSM
from reprogram.attacks.zoo import Zoo
from reprogram.errors import ConfigError
from reprogram.instantiation import call
from reprogram.types import SourceSpec

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


def test_a_source_must_show_what_an_attack_follows() -> None:
    hidden, labels = (
        SourceSpec("api", (8, 8), ("a", "b"), differentiable=False, scores=scores) for scores in (True, False)
    )
    expect_shown(FGSM([0.1]), SourceSpec("network", (8, 8), ("a", "b")))
    expect_shown(Zoo(0.1), hidden)
    with pytest.raises(ConfigError, match=r"attack=fgsm: .* its gradient, got api, which is a black box"):
        expect_shown(FGSM([0.1]), hidden)
    with pytest.raises(ConfigError, match=r"attack=zoo: .* got api: labels alone; no attack here"):
        expect_shown(Zoo(0.1), labels)
