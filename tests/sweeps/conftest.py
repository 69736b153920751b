"""A sweep that needs no run."""

from pathlib import Path
from typing import Any

import pytest

from reprogram.sweeps.plan import Sweep

TPE = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 2}


@pytest.fixture
def sweep(tmp_path: Path):
    """Makes one; what is not said is small."""

    def make(**changes: Any) -> Sweep:
        values: dict[str, Any] = {
            "name": "s", "folder": str(tmp_path / "s"), "storage": None, "overrides": ["data=digits"],
            "space": {"optimizer.lr": {"low": 0.01, "high": 1.0, "log": True}}, "objectives": ["score"],
            "monitor": "val/accuracy", "mode": "max", "sampler": TPE, "pruner": None, "seed": 0, "jobs": 3,
            "retries": 1, "grace": 10, "workers": 1, "devices": None, "job_budget": None, "query_budget": None,
            "price_per_1000": None, "ledger": None,
        }  # fmt: skip
        return Sweep(**{**values, **changes})

    return make
