"""What all tests share: the tiers, a fixed seed, no outside service, and the way to the real assets."""

import os
from pathlib import Path

import pytest
import torch

# Set before anything imports matplotlib or wandb, and inherited by the processes that tests start.
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if {"integration", "commands"} & set(item.path.parts):  # whole runs
            item.add_marker("slow")
        if not any(item.get_closest_marker(mark) for mark in ("slow", "gpu", "ddp")):
            item.add_marker("fast")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Images that tests decode are cached for this session only; the processes they start inherit it."""
    os.environ["REPROGRAM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and data; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("REPROGRAM_ASSETS")
    if not folder:
        pytest.skip("real weights and data: set REPROGRAM_ASSETS to the folder that holds them")
    if not Path(folder).is_dir():
        pytest.fail(f"REPROGRAM_ASSETS: expected a folder, got {folder}")
    return Path(folder)
