"""The layers of the package: imports point down only, one idea per file."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reprogram"

# What each room (module or folder directly under the package) may import, besides itself. A new room gets its row here.
GROUND = {"channel", "errors", "exit_codes", "types", "distributed", "launched", "memory", "preemption"}
MODELS = {"programs", "sources", "mappings", "losses"}
BELOW_TRAINING = GROUND | MODELS | {"regularizers", "classifier", "objective", "estimators", "data", "evaluation"}
COMPOSERS = {
    "accounting",
    "checks",
    "composed",
    "discovery",
    "instantiation",
    "build",
    "sourcing",
    "finishing",
    "artefact",
    "illustrations",
    "prediction",
    "records",
    "rescoring",
    "runs",
    "trainers",
}
BELOW_COMMANDS = BELOW_TRAINING | {"training"} | COMPOSERS

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "types": {"errors"},
    **{room: set() for room in ("channel", "distributed", "exit_codes", "launched", "memory")},
    "preemption": {"exit_codes"},
    **dict.fromkeys(MODELS, GROUND),
    "programs": GROUND | {"sources"},  # a frozen encoder
    "mappings": GROUND | {"sources"},  # a text encoder
    "regularizers": GROUND | {"programs"},
    "classifier": GROUND | MODELS,
    "objective": GROUND | MODELS | {"classifier"},
    "estimators": GROUND | MODELS | {"classifier", "objective"},
    "data": GROUND,
    "evaluation": GROUND | MODELS | {"classifier", "data"},
    "training": BELOW_TRAINING,
    **dict.fromkeys(COMPOSERS, BELOW_COMMANDS),
    "instantiation": {"errors"},
    "checks": {"errors", "evaluation", "instantiation", "types"},
    "sweeps": GROUND | {"evaluation", "instantiation", "sources"},
    "reports": GROUND | {"evaluation", "checks", "records"},
    "attacks": BELOW_COMMANDS,
    "serving": BELOW_COMMANDS,
    "active": BELOW_COMMANDS,
    "commands": BELOW_COMMANDS | {"active", "attacks", "reports", "serving", "sweeps"},
    "__init__": BELOW_COMMANDS,
}
HYDRA_ROOMS = {"build", "runs", "commands"}
MAX_LINES = 300


def imported_modules(tree: ast.Module, parent: tuple[str, ...]) -> list[tuple[int, str]]:
    """Line and dotted name of all that a module imports, at any depth; ``parent`` is the package it lies in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*parent[: len(parent) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


def violations(package: Path, layers: dict[str, set[str]]) -> list[str]:
    """Every breach of the rules in a package, as ``file:line: what is wrong``."""
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        room, text = parts[0], file.read_text(encoding="utf-8")
        where = file.relative_to(package.parent).as_posix()
        if room not in layers:
            found.append(f"{where}:1: the room {room!r} has no row in LAYERS")
            continue
        if file.stem in {"utils", "util", "helpers"}:
            found.append(f"{where}:1: a module is named after its idea, not {file.name}")
        if (lines := len(text.splitlines())) > MAX_LINES:
            found.append(f"{where}:{lines}: {lines} lines, at most {MAX_LINES}")
        for line, name in imported_modules(ast.parse(text), (package.name, *parts[:-1])):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top in {"hydra", "omegaconf"} and room not in HYDRA_ROOMS:
                found.append(f"{where}:{line}: only {sorted(HYDRA_ROOMS)} know Hydra")
            if top == "lightning":
                found.append(f"{where}:{line}: import pytorch_lightning, never lightning")
            if top == package.name and target not in layers[room] | {room}:
                found.append(f"{where}:{line}: {room} must not import {target or 'the whole package'}")
    return found


def test_the_package_keeps_its_layers() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 20
    assert not violations(PACKAGE, LAYERS), "\n" + "\n".join(violations(PACKAGE, LAYERS))


def test_the_table_names_only_rooms_that_exist() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(LAYERS) <= rooms
    assert set().union(*LAYERS.values()) <= set(LAYERS)


def test_what_is_served_predicted_or_reported_does_without_lightning() -> None:
    used = ("serving.server", "serving.worker", "prediction", "reports.page", "reports.comparison")
    statements = [f"import reprogram.{module}" for module in used]
    statements += ["import sys", "print([name for name in sys.modules if 'lightning' in name.split('.')[0]])"]
    done = subprocess.run([sys.executable, "-c", "; ".join(statements)], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"  # it takes seconds to import


def undeclared(package: Path, declared: set[str]) -> set[str]:
    """Third-party modules that a package imports from none of the declared distributions."""
    owners = packages_distributions()
    found = set()
    for file in package.rglob("*.py"):
        parent = (package.name, *file.relative_to(package).parts[:-1])
        for _, name in imported_modules(ast.parse(file.read_text(encoding="utf-8")), parent):
            top = name.partition(".")[0]
            if top != package.name and top not in sys.stdlib_module_names:
                names = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(top, [])}
                found |= set() if names & declared else {top}
    return found


def test_every_imported_library_is_declared(tmp_path: Path) -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [
        *project["dependencies"],
        *(one for name in extras if name != "dev" for one in extras[name]),
    ]
    declared = {re.split(r"[<>=~!\[; ]", requirement)[0] for requirement in requirements}
    assert undeclared(PACKAGE, declared) == set()
    (tmp_path / "module.py").write_text("import os\nimport torch\nimport pytest\nimport no_such_library.part")
    assert undeclared(tmp_path, declared) == {"pytest", "no_such_library"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("programs/a.py", "import reprogram.training.module", "1: programs must not import training"),
        ("programs/a.py", "from reprogram.mappings.base import LabelMapping", "1: programs must not import mappings"),
        ("sources/a.py", "from reprogram import programs", "1: sources must not import programs"),
        ("programs/a.py", "import reprogram", "1: programs must not import the whole package"),
        ("programs/a.py", "from ..estimators import base", "1: programs must not import estimators"),
        ("programs/a.py", "from .. import runs", "1: programs must not import runs"),
        ("losses.py", "\ndef f():\n    from .mappings import base", "3: losses must not import mappings"),
        ("errors.py", "from reprogram.types import Batch", "1: errors must not import types"),
        ("data/a.py", "from reprogram.training import seeds", "1: data must not import training"),
        ("evaluation/a.py", "from reprogram.training import seeds", "1: evaluation must not import training"),
        ("objective.py", "from reprogram.estimators import base", "1: objective must not import estimators"),
        ("training/a.py", "from reprogram.runs import train", "1: training must not import runs"),
        ("runs.py", "from reprogram.commands import train", "1: runs must not import commands"),
        ("training/a.py", "from omegaconf import DictConfig", "know Hydra"),
        ("records.py", "import hydra.utils", "know Hydra"),
        ("training/a.py", "import lightning.pytorch as pl", "never lightning"),
        ("training/utils.py", "", "named after its idea, not utils.py"),
        ("training/a.py", "x = 1\n" * 301, "301 lines, at most 300"),
        ("classifier.py", "from reprogram import objective", "1: classifier must not import objective"),
        ("distributed.py", "from reprogram.types import Batch", "1: distributed must not import types"),
        ("tricks/a.py", "", "the room 'tricks' has no row in LAYERS"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, text: str, message: str) -> None:
    path = tmp_path / "reprogram" / file
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    found = violations(tmp_path / "reprogram", LAYERS)
    assert len(found) == 1
    assert found[0].startswith(f"reprogram/{file}:")
    assert message in found[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("programs/a.py", "from reprogram.types import Batch\nfrom .base import InputProgram\nfrom . import placement"),
        ("training/a.py", "import pytorch_lightning as pl\nfrom reprogram.estimators.base import GradientEstimator"),
        ("evaluation/a.py", "from reprogram.mappings.base import LabelMapping\nfrom reprogram.data import base"),
        ("build.py", "import hydra\nfrom omegaconf import DictConfig\nfrom reprogram.training import module"),
        ("commands/a.py", "import hydra\nfrom reprogram.runs import train"),
        ("training/a.py", "x = 1\n" * 300),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / "reprogram" / file
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert violations(tmp_path / "reprogram", LAYERS) == []
