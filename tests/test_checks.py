"""Values that no constructor sees before training."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from reprogram import build
from reprogram.checks import check, check_monitor, is_black_box
from reprogram.commands.launch import config_folder
from reprogram.errors import ConfigError
from reprogram.types import TaskSpec


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return build.plain(compose("train", list(overrides)))


BLACK = ("access=black_box", "estimator=two_sided")
RECIPES = sorted(path.stem for path in (config_folder() / "recipe").glob("*.yaml"))


@pytest.mark.parametrize("overrides", [(), BLACK, *((f"recipe={name}",) for name in RECIPES)], ids=" ".join)
def test_what_is_shipped_passes(overrides: tuple[str, ...]) -> None:
    cfg = config(*overrides)
    check(cfg)
    assert is_black_box(cfg) == (cfg["access"]["_target_"] is not None)


def test_a_configuration_from_before_a_key_is_refused() -> None:
    cfg = config()
    del cfg["callbacks"]["confidence"]
    with pytest.raises(ConfigError, match=r"callbacks\.confidence: expected a number in .* got 'nothing'"):
        check(cfg)
    cfg = config()
    del cfg["optimizer"]["lr"]  # the rate of an optimizer that has none
    check(cfg)


def test_which_side_of_the_box() -> None:
    assert is_black_box(config(*BLACK))
    assert not is_black_box(config())
    assert not is_black_box({"access": {}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.min_delta=-1", r"callbacks\.min_delta: expected a number >= 0, got -1"),
        ("callbacks.confidence=0.4", r"callbacks\.confidence: expected a number in \[0\.5, 1\) or null, got 0\.4"),
        ("callbacks.confidence=1", r"callbacks\.confidence: expected a number in \[0\.5, 1\) or null, got 1"),
        ("callbacks.confidence=nan", r"callbacks\.confidence: expected a number in \[0\.5, 1\) or null, got nan"),
        ("callbacks.confidence=sure", r"callbacks\.confidence: expected a number in \[0\.5, 1\) or null, got .sure."),
        ("callbacks.confidence=true", r"callbacks\.confidence: expected a number in \[0\.5, 1\) or null, got True"),
        ("callbacks.confidence=[0.9]", r"callbacks\.confidence: expected a number in \[0\.5, 1\) or null, got \[0.9\]"),
        ("callbacks.min_delta=abc", r"callbacks\.min_delta: expected a number >= 0, got .abc."),
        ("estimator=backprop", r"estimator: .*hides the gradient; choose estimator=two_sided"),
        ("access.query_budget=0", r"access\.query_budget: expected a whole number >= 1, got 0"),
        ("access.query_budget=1.5", r"access\.query_budget: expected a whole number >= 1, got 1\.5"),
        ("access.query_budget=true", r"access\.query_budget: expected a whole number >= 1, got True"),
        ("access.prime=0", r"access\.prime: expected a whole number >= 1, got 0"),
        ("access.validations=0", r"access\.validations: expected a whole number >= 2, got 0"),
        ("access.spare=-1", r"access\.spare: expected a whole number >= 0, got -1"),
        ("access.validations=null", r"access\.validations: expected a whole number >= 2, got None"),
        ("access.price_per_1000=0", r"access\.price_per_1000: expected a number > 0 or null, got 0"),
        ("access.price_per_1000=cheap", r"access\.price_per_1000: expected a number > 0 or null, got 'cheap'"),
        ("access.price_per_1000=nan", r"access\.price_per_1000: expected a number > 0 or null, got nan"),
        ("access.queries_per_second=-1", r"access\.queries_per_second: expected a number > 0 or null, got -1"),
        ("access.queries_per_second=true", r"access\.queries_per_second: expected a number > 0 or null, got True"),
        ("access.dry_run=1", r"access\.dry_run: expected true or false, got 1"),
        ("access.ledger=7", r"access\.ledger: expected a file name, postgresql:.* or null, got 7"),
        ("access=nothing_of_the_kind", r"access"),
    ],
)
def test_wrong_keys_of_a_black_box_are_refused(override: str, message: str) -> None:
    if override.startswith("access="):
        with pytest.raises(ConfigError, match=message):
            check(config(*BLACK) | {"access": override})
        return
    with pytest.raises(ConfigError, match=message):
        check(config(*BLACK, override))


def test_a_white_box_has_none_of_these_keys() -> None:
    check(config("estimator=backprop"))
    check(config("estimator=two_sided"))  # a gradient that is there need not be used


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", r"seed: expected a whole number >= 0, got -1"),
        ("seed=4294967296", r"seed: .*below 2\^32"),
        ("data.batch_size=0", r"data\.batch_size: expected a whole number >= 1"),
        ("trainer.accumulate_grad_batches=0", r"trainer\.accumulate_grad_batches"),
        ("trainer.precision=bf16-mixed", r"trainer\.precision: expected 32-true"),
        ("callbacks.patience=0", r"callbacks\.patience: expected a whole number >= 1"),
        ("callbacks.mode=best", r"callbacks\.mode: expected min or max, got 'best'"),
        ("callbacks.monitor=3", r"callbacks\.monitor"),
        ("evaluation.num_resamples=0", r"evaluation\.num_resamples"),
        ("evaluation.baselines=majority", r"evaluation\.baselines: expected a list of names"),
        ("data.augmentation=true", r"data\.augmentation"),
    ],
)
def test_wrong_keys_of_any_run_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config(override))


def test_a_monitor_must_be_a_metric_of_the_task() -> None:
    two, three = TaskSpec("toy", ("a", "b"), (4, 4)), TaskSpec("toy", ("a", "b", "c"), (4, 4))
    for monitor in ("val/nll", "val/balanced_accuracy", "val/auroc"):
        check_monitor(monitor, two)
        check_monitor(monitor, three)
    check_monitor("val/sensitivity", two)
    with pytest.raises(ConfigError, match=r"callbacks\.monitor: expected one of val/.*, got 'val/sensitivity'"):
        check_monitor("val/sensitivity", three)
