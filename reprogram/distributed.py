"""The few collective operations we need; without a process group each is the identity."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def number_of_processes() -> int:
    """How many train together."""
    return dist.get_world_size() if is_distributed() else 1


def is_first_process() -> bool:
    """Whether this process is the one that fits, writes and speaks."""
    return not is_distributed() or dist.get_rank() == 0


def any_process(here: bool, device: torch.device) -> bool:
    """Whether something is so on at least one process; all get the same answer."""
    if not is_distributed():
        return here
    return bool(sum_over_processes(torch.tensor(float(here), device=device)))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes; the argument stays."""
    total = tensor.clone()
    if is_distributed():
        dist.all_reduce(total)
    return total


def average_over_processes(tensor: Tensor) -> Tensor:
    """Returns the mean of a tensor over all processes; the argument stays."""
    return sum_over_processes(tensor) / dist.get_world_size() if is_distributed() else tensor.clone()


def concatenate_over_processes(rows: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Gathers CPU tensors of any number of rows on the first process, in process order; the others get ``None``."""
    if not is_distributed():
        return rows
    gathered: list[dict[str, Tensor]] | None = [{}] * dist.get_world_size() if is_first_process() else None
    dist.gather_object(rows, gathered)
    if gathered is None:
        return None
    return {key: torch.cat([part[key] for part in gathered]) for key in rows}


def from_first_process(value: T) -> T:
    """Returns the first process's value on every process."""
    if not is_distributed():
        return value
    message = [value]
    dist.broadcast_object_list(message, src=0)
    return message[0]
