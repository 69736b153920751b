"""Memory of the machine: how much is free, and how freed memory is kept for the next step."""

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_MADV_HUGEPAGE = 14  # of sys/mman.h
_HEAP = 4 << 30  # bytes of it that huge pages are asked for; what is never used costs nothing

_CONTAINERS = (  # where version 2 and 1 of cgroups say what may be used, what is, and what of it is a cache of files
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, or in the main memory; 2 GiB where the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    found = [_available()]
    for folder, limit, usage, files in _CONTAINERS:
        try:
            cached = _field((folder / "memory.stat").read_text(encoding="ascii"), files)
            found.append(int((folder / limit).read_text()) - int((folder / usage).read_text()) + cached)
        except (OSError, ValueError):  # no container, or one without a limit ("max")
            continue
    return max(0, min(found))


@cache
def keep_freed_memory() -> None:
    """Has the C library keep what large tensors free, in huge pages, where it is glibc; else nothing happens.

    By default each of them is handed back to the system and comes anew, page by page, at the next step: a third to a
    half of a step on the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        _ask_for_huge_pages(ctypes.CDLL(None), min(_HEAP, free_memory(torch.device("cpu")) // 2))


def _ask_for_huge_pages(library: ctypes.CDLL, size: int) -> None:
    """Grows the heap by so many bytes, untouched, marks them and frees them, which keeps them in the heap."""
    library.malloc.restype, page = ctypes.c_void_p, os.sysconf("SC_PAGESIZE")
    place = library.malloc(ctypes.c_size_t(size))
    if place is not None:
        start = -(-place // page) * page
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(max(0, size - 2 * page)), _MADV_HUGEPAGE)
        library.free(ctypes.c_void_p(place))


def _available() -> int:
    try:
        return _field(Path("/proc/meminfo").read_text(encoding="ascii"), "MemAvailable:") << 10
    except (OSError, ValueError):
        return 2 << 30


def _field(text: str, name: str) -> int:
    """The number after a name."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise ValueError(name)
