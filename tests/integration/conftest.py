"""What end-to-end tests share: a config composed as the command does it, small enough for a test."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from reprogram.commands.launch import config_folder

SIZES = ("protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40")
QUICK = ("trainer.max_epochs=2", "trainer.enable_progress_bar=false", "evaluation.num_resamples=20", "logger=none")

Compose = Callable[..., DictConfig]


@pytest.fixture
def small(tmp_path: Path) -> Compose:
    """Composes ``train.yaml`` with small sizes, the given overrides, and a run directory of the test's own."""

    def make(*overrides: str, run_dir: str = "run", sizes: Sequence[str] = SIZES) -> DictConfig:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("train", [*QUICK, *sizes, f"run_dir={tmp_path / run_dir}", *overrides])

    return make
