"""Commands run in this process; they set up logging for themselves: what they leave behind is put back."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def run_command(monkeypatch, capfd, tmp_path: Path):
    """Runs a command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(module, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"reprogram-{module.__name__.split('.')[-1]}", *arguments])
        code = 0
        try:
            module.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return command


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_logging_as_before() -> Iterator[None]:
    with _logging_as_before():
        yield


@pytest.fixture(autouse=True)
def _test_leaves_logging_as_before() -> Iterator[None]:
    with _logging_as_before():
        yield


@contextmanager
def _logging_as_before() -> Iterator[None]:
    root, manager = logging.getLogger(), logging.root.manager
    before = root.level, root.handlers[:], manager.disable
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    manager.disable = before[2]
    for logger in manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.startswith("reprogram"):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
