"""How much memory is free, and that freed memory stays."""

import resource
from pathlib import Path

import pytest
import torch

from reprogram import memory

CPU = torch.device("cpu")


def test_free_memory_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < memory.free_memory(CPU) < 1 << 50
    limit, usage = tmp_path / "memory.max", tmp_path / "memory.current"
    (tmp_path / "memory.stat").write_text("file 100\ninactive_file 90\n")
    monkeypatch.setattr(memory, "_CONTAINERS", ((tmp_path, limit.name, usage.name, "inactive_file"),))
    monkeypatch.setattr(memory, "_available", lambda: 1000)
    limit.write_text("700\n")
    usage.write_text("300\n")
    assert memory.free_memory(CPU) == 490  # a cache of files makes room when it must
    limit.write_text("150\n")
    assert memory.free_memory(CPU) == 0
    limit.write_text("max\n")
    assert memory.free_memory(CPU) == 1000


def test_what_a_large_tensor_frees_is_used_again() -> None:
    memory.keep_freed_memory()
    torch.zeros(64, 1 << 20)  # room for 64 MiB, wherever they begin

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(16, 1 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(faults() for _ in range(3)) < 1000  # of 16,384 pages
