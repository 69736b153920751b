"""Commands that run in this process set up logging for themselves: what they leave behind is put back."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


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
