"""What the tests of several data sets share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from reprogram.build import DATA_KEYS, plain
from reprogram.data.base import TargetData
from reprogram.instantiation import call

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def configured() -> Callable[..., TargetData]:
    """The data set of a file under ``configs/data``, as a run makes it, with other values for some of its keys."""

    def make(config: str, **changes: Any) -> TargetData:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            block = plain(compose(f"data/{config}"))["data"]
        leaf = call({key: value for key, value in {**block, **changes}.items() if key not in DATA_KEYS}, "data")
        assert isinstance(leaf, TargetData)
        return leaf

    return make
