"""docs/catalogue.md says of every choice what is so: it names all of them, and its lines, numbers and pictures hold."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from reprogram.build import plain
from reprogram.checks import check
from reprogram.instantiation import bind, call
from reprogram.programs.base import InputProgram
from reprogram.sources.embedded import embedded_source
from reprogram.sourcing import SOURCE_KEYS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "catalogue.md"
TEXT = PAGE.read_text(encoding="utf-8")
GROUPS = ("program", "mapping", "source", "regularizer")
CHOICES = [
    f"{group}={path.stem}"
    for group in GROUPS
    for path in sorted((ROOT / "configs" / group).glob("*.yaml"))
    if not path.stem.startswith("_")
]
COMMANDS = re.findall(r"^(reprogram-train .+)$|`(reprogram-train [^`]+)`", TEXT, re.MULTILINE)
LINES = [line or quoted for line, quoted in COMMANDS]
PICTURES = re.findall(r'<img src="([^"]+)" width="\d+" alt="[^"]+">', TEXT)
LINKS = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


@cache
def block(group: str, name: str) -> dict[str, Any]:
    """A config's own keys."""
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / group / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "defaults"}


def rows(first_cell: str) -> list[list[str]]:
    """Cells of the table whose head starts so."""
    table = re.search(rf"^\| {first_cell} \|.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table[1].splitlines()]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_named(choice: str) -> None:
    assert re.search(rf"\b{choice}(?!\w)", TEXT)


def test_pictures_are_those_of_the_folder() -> None:
    folder = {path.relative_to(PAGE.parent).as_posix() for path in (PAGE.parent / "catalogue").iterdir()}
    assert len(PICTURES) == TEXT.count("<img")
    assert sorted(PICTURES) == sorted(folder)


def test_pictures_are_small() -> None:
    sizes = [(PAGE.parent / picture).stat().st_size for picture in PICTURES]
    assert max(sizes) < 40_000
    assert sum(sizes) < 500_000


@pytest.mark.parametrize("link", LINKS)
def test_links_lead_somewhere(link: str) -> None:
    assert (PAGE.parent / link).exists()


def test_places_on_the_page_exist() -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_there_is_a_line_for_every_source() -> None:
    lines = [row[2] for row in rows("source")]
    sources = [choice for choice in CHOICES if choice.startswith("source=")]
    assert len(lines) == len(sources)
    by_choice = sorted(rows("source"), key=lambda row: row[0].split("`")[1])
    for choice, row in zip(sources, by_choice, strict=True):
        assert row[0].startswith(f"`{choice}`")
        assert choice in row[2]


@pytest.mark.parametrize("line", LINES)
def test_lines_bind(line: str) -> None:
    command, *overrides = shlex.split(line)
    assert command == "reprogram-train"
    cfg = plain(compose("train", overrides))
    check(cfg)
    check_source(cfg["source"])
    encoder = cfg["program"].pop("encoder", None)
    if encoder is not None:
        check_source(encoder)
    for group in ("program", "mapping", "estimator", "loss", "regularizer"):
        if cfg[group].get("_target_") is not None:
            bind(cfg[group], group)


def check_source(choice: dict[str, Any]) -> None:
    """Binds a source, and the sources within it, without making them."""
    own = {key: value for key, value in choice.items() if key not in SOURCE_KEYS}
    for member in own.pop("members", {}).values():
        check_source(member)
    bind(own, "source")


@pytest.mark.parametrize(
    ("group", "key"), sorted(set(re.findall(r"\b(program|mapping|source|regularizer|access|optimizer)\.(\w+)", TEXT)))
)
def test_keys_exist(group: str, key: str) -> None:
    known = {name for path in (ROOT / "configs" / group).glob("*.yaml") for name in block(group, path.stem)}
    assert key in known or (group, key) == ("program", "encoder")  # put there by the defaults list


@pytest.mark.parametrize("row", rows("choice"), ids=lambda row: row[0].strip("`"))
def test_numbers_of_a_program_are_counted(row: list[str]) -> None:
    words, stated = shlex.split(row[0].strip("`")), row[1]
    chosen = dict(word.split("=", 1) for word in words)
    name = chosen.pop("program")
    options = OmegaConf.from_dotlist([f"{key.removeprefix('program.')}={value}" for key, value in chosen.items()])
    facts: dict[str, Any] = {"canvas": (224, 224), "support": None, "seed": 0}
    if name == "coordinator":
        facts["encoder"] = embedded_source()
    program: InputProgram = call({**block("program", name), **options}, "program", **facts)
    assert program.theta.numel() == int(stated.replace(",", ""))


def test_options_are_those_of_the_configs() -> None:
    (head,) = re.findall(r"^\| option \| (.+) \|$", TEXT, re.MULTILINE)
    for options, *marks in rows("option"):
        for option in re.findall(r"`(\w+)`", options):
            for program, mark in zip(head.split(" | "), marks, strict=True):
                assert (option in block("program", program)) == (mark == "x"), f"{option} of {program}"
