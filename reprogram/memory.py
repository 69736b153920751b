"""Memory of the machine: how much is free, and how freed memory is kept for the next step."""

import ctypes
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h

_LIMITS = (  # of a container: what it may use, and what it uses
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, or in the main memory; 2 GiB where the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    found = [_available()]
    for limit, usage in _LIMITS:
        try:
            found.append(int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):  # no container, or one without a limit ("max")
            continue
    return max(0, min(found))


def keep_freed_memory() -> None:
    """Has the C library keep what large tensors free, where it is glibc; else nothing happens.

    By default each of them is handed back to the system and comes anew, page by page, at the next step: a third to a
    half of a step on the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2 << 30
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), 2 << 30)
