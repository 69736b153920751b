"""Every experiment composes and binds, its header's command lines work, and it says what it is modelled on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from reprogram.build import plain
from reprogram.checks import is_black_box
from reprogram.composed import check_blocks

CONFIGS = Path(__file__).parents[2] / "configs"
FOLDER = CONFIGS / "experiment"
FILES = {str(path.relative_to(FOLDER).with_suffix("")): path for path in sorted(FOLDER.rglob("*.yaml"))}
PARTS = [name for name in FILES if "/_" in f"/{name}"]
EXPERIMENTS = [name for name in FILES if name not in PARTS]
each = pytest.mark.parametrize("name", EXPERIMENTS)


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(CONFIGS), version_base="1.3"):
        patch.setenv("REPROGRAM_ASSETS", "assets")
        yield


def header(name: str) -> list[str]:
    """The sentences on top of a file; an indented line goes on with the one before."""
    lines = [line[1:] for line in FILES[name].read_text().splitlines() if line.startswith("#")]
    return "\n".join(lines[1:]).replace("\n   ", " ").replace("\n ", "\n").strip().split("\n")


def overrides(line: str) -> list[str]:
    """What a line says to set; of a sweep its first value."""
    return [re.sub(r"=range\(.*\)$", "=0", found) for found in re.findall(r"(?<![\w.])[a-z_.]+=[^\s']+", line)]


def command(name: str) -> list[str]:
    """What the command of an experiment sets."""
    (line,) = (line for line in header(name) if line.startswith("Command: "))
    return overrides(line)


def works(*chosen: str) -> dict[str, Any]:
    """The configuration, once it is known that every block of it can be called."""
    cfg = plain(compose("train", list(chosen)))
    check_blocks(cfg)
    return cfg


@each
def test_the_command_of_an_experiment_is_its_own_and_works(name: str) -> None:
    assert f"experiment={name}" in command(name)
    assert is_black_box(works(*command(name))) == name.startswith("black_box/")


VARIANTS = {  # what else headers say to set, once for each task
    (Path(name).parent, Path(name).name.split("_")[0], line): name
    for name in EXPERIMENTS
    for line in header(name)
    if overrides(line) and not line.startswith("Command: ")
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for (*_, line), name in VARIANTS.items()])
def test_a_variant_that_a_header_offers_works(name: str, line: str) -> None:
    works(*command(name), *overrides(line))


@each
def test_an_experiment_names_what_was_published_or_says_that_nothing_was(name: str) -> None:
    own = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    assert isinstance(own, dict)
    paper, said = own["paper"], "\n".join(header(name))
    assert "Paper" in said
    if paper is not None:
        assert set(paper) == {"table", "metric", "value", "note"}
        assert 0 < paper["value"] < 1
        assert str(paper["value"]) in said or f"{100 * paper['value']:.1f}" in said
        assert ("from memory" in paper["note"]) == ("from memory" in said)
    if name.startswith("black_box/"):
        assert own["access"]["query_budget"] >= 1


def test_there_are_experiments_and_every_shared_part_is_used() -> None:
    assert len(EXPERIMENTS) >= 48
    text = "".join(path.read_text() for path in FILES.values())
    assert [part for part in PARTS if f"- /experiment/{part}\n" not in text] == []
