"""The built wheel, as somebody gets it who has no checkout."""

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed, started away from the checkout."""
    result = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel and nothing else; its dependencies come from the test environment."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_holds_every_module_config_and_weight(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.j2", "*.json", "*.safetensors")
        for path in (ROOT / "reprogram").rglob(pattern)
    }
    configs = {
        f"reprogram/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "configs").rglob("*.yaml")
        if "local" not in path.parts
    }
    assert any(name.endswith(".safetensors") for name in expected)
    assert "reprogram/configs/train.yaml" in configs
    assert expected | configs <= names


def test_the_wheel_holds_nothing_private_or_foreign(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"reprogram", f"reprogram-{version()}.dist-info"}
    assert not [name for name in names if name.startswith("reprogram/configs/local/")]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_console_scripts_point_at_functions(wheel: Path, installed: Path, tmp_path: Path) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(zipfile.ZipFile(wheel).read(f"reprogram-{version()}.dist-info/entry_points.txt").decode())
    scripts = dict(entry_points["console_scripts"])
    assert scripts == {
        "reprogram-train": "reprogram.commands.train:main",
        "reprogram-evaluate": "reprogram.commands.evaluate:main",
        "reprogram-active": "reprogram.commands.active:main",
        "reprogram-attack": "reprogram.commands.attack:main",
        "reprogram-predict": "reprogram.commands.predict:main",
        "reprogram-report": "reprogram.commands.report:main",
        "reprogram-serve": "reprogram.commands.serve:main",
        "reprogram-sweep": "reprogram.commands.sweep:main",
    }
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    module, _, function = name.partition(':')\n"
    program += "    print(callable(getattr(importlib.import_module(module), function)))"
    printed = run(sys.executable, "-c", program, *scripts.values(), cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed.split() == ["True"] * len(scripts)


def test_the_installed_wheel_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run(
        sys.executable, "-c", "import reprogram; print(reprogram.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(where.strip()) == installed / "reprogram" / "__init__.py"
    shown = run(sys.executable, "-m", "reprogram.commands.train", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "reprogram-train" in shown


def test_every_pin_satisfies_the_declared_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, pinned = line.partition("==")
            pins[canonicalize_name(name)] = pinned
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    declared = [*PYPROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]
    for requirement in map(Requirement, declared):
        if requirement.name != "reprogram":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def version() -> str:
    return PYPROJECT["project"]["version"]
