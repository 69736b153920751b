"""The definitions for agents of Weights & Biases: ``reprogram-train`` understands what an agent makes of them."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from reprogram.build import plain
from reprogram.composed import check_blocks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "wandb").glob("*.yaml"))
METRICS = ("balanced_accuracy", "nll")


def command(definition: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What an agent runs, once the server has chosen a value for each parameter."""
    line = create_sweep_command(list(definition["command"]))
    given = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    place = line.index("${args_no_hyphens}")
    return [*line[:place], *given["args_no_hyphens"], *line[place + 1 :]]


def ends(block: dict[str, Any]) -> list[Any]:
    return block["values"] if "values" in block else [block["min"], block["max"]]


def test_there_are_definitions() -> None:
    assert len(FILES) >= 4


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_value_gives_a_command_that_works(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROGRAM_ASSETS", "assets")
    definition = yaml.safe_load(file.read_text())
    first = {key: ends(block)[0] for key, block in definition["parameters"].items()}
    assert f"wandb sweep configs/wandb/{file.name}" in file.read_text()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for key, block in definition["parameters"].items():
            for value in ends(block):
                env, program, *overrides = command(definition, {**first, key: value})
                assert (env, program) == ("${env}", "reprogram-train")  # the agent's /usr/bin/env on Unix
                cfg = plain(compose("train", overrides))
                check_blocks(cfg)
                assert cfg["logger"]["wandb"]["project"] == definition["project"]
                found: Any = cfg
                for part in key.split("."):
                    found = found[part]
                assert isinstance(found, dict) or found == value
    assert definition["metric"]["name"].rpartition("/")[2] in METRICS
