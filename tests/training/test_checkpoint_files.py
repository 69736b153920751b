"""A checkpoint that cannot be written leaves the one before."""

import os
import resource
from pathlib import Path

import pytest
import torch

from reprogram.errors import RunError
from reprogram.training.checkpoint_files import write_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint({"step": 1}, path)
    return path


def kept(path: Path) -> bool:
    return torch.load(path, weights_only=True) == {"step": 1} and list(path.parent.iterdir()) == [path]


def test_a_new_one_takes_the_place_of_the_one_before(path: Path) -> None:
    assert kept(path)
    write_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 2}
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_takes_no_more(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunError, match=r"last\.ckpt: cannot write a checkpoint \(File too large\); the one before"):
            write_checkpoint({"step": 2, "theta": torch.rand(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept(path)


def test_a_disk_that_forgets(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"something else")
    with pytest.raises(RunError, match="gives back something else than was written"):
        write_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert kept(path)


def test_the_file_is_on_the_disk_before_it_takes_the_place(path: Path, monkeypatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    write_checkpoint({"step": 2}, path)
    assert done == ["fsync", "replace"]
