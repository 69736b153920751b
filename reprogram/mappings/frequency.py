"""Frequency label mapping: each target class takes the source classes its images are mistaken for most often."""

import torch
from torch import Tensor

from reprogram.distributed import is_first_process, sum_over_processes
from reprogram.mappings.assignment import assigned_scores, check_room
from reprogram.mappings.base import LabelMapping, RefitSchedule


class FrequencyMapping(LabelMapping):
    """Assigns source classes greedily by how often they are predicted for each target class.

    With ``refresh=once`` this is FLM, with ``refresh=1`` ILM (counted from the training forward itself, so on the
    responses of the epoch before, not by a second pass over the data).

    Args:
        source_classes: K_s.
        target_classes: K_t.
        per_class: m, source classes for each target class; their probabilities are averaged.
        refresh: See ``RefitSchedule``.
        refit_at_end: See ``RefitSchedule``.

    Raises:
        ConfigError: If the source classes do not suffice.

    Reference:
        Understanding and Improving Visual Prompting: A Label-Mapping Perspective, Chen et al., CVPR 2023,
        arXiv:2211.11635 (FLM, ILM; m = 1). m:1 averaging: Tsai et al., ICML 2020 (BAR). Differences: ties between equal
        counts are broken by the mean probability; a class without examples takes what the others leave.
    """

    assignment: Tensor
    counts: Tensor
    mass: Tensor

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        per_class: int = 1,
        refresh: str | int = 1,
        refit_at_end: bool = False,
    ) -> None:
        super().__init__()
        check_room(source_classes, target_classes, per_class)
        self.schedule = RefitSchedule(refresh, refit_at_end)
        first = torch.arange(target_classes * per_class).view(target_classes, per_class)
        self.register_buffer("assignment", first)
        self.register_buffer("counts", torch.zeros(source_classes, target_classes, dtype=torch.int64))
        self.register_buffer("mass", torch.zeros(source_classes, target_classes, dtype=torch.float64))

    def forward(self, log_probs: Tensor) -> Tensor:
        """See ``assigned_scores``."""
        return assigned_scores(log_probs, self.assignment)

    def observe(self, log_probs: Tensor, targets: Tensor) -> None:
        """Counts the predicted source class of each example, and adds up its probabilities."""
        pairs = log_probs.argmax(dim=1) * self.counts.shape[1] + targets
        self.counts += torch.bincount(pairs, minlength=self.counts.numel()).view_as(self.counts)
        self.mass.index_add_(1, targets, log_probs.double().exp().T)

    def collect(self) -> None:
        """Adds up the counts of all processes on the first."""
        counts, mass = sum_over_processes(self.counts), sum_over_processes(self.mass)
        self.reset()
        if is_first_process():
            self.counts += counts
            self.mass += mass

    def reset(self) -> None:
        """Starts to count afresh."""
        self.counts.zero_()
        self.mass.zero_()

    def refit(self) -> None:
        """Assigns anew from the counts of all processes; without any, the assignment stays."""
        counts, mass = sum_over_processes(self.counts), sum_over_processes(self.mass)
        if counts.sum() > 0:
            self.assignment.copy_(greedy_assignment(counts, mass, self.assignment.shape[1]))
        self.reset()


def greedy_assignment(counts: Tensor, mass: Tensor, per_class: int) -> Tensor:
    """Takes the largest entries first; a source class is taken once, a target class takes ``per_class``.

    Shapes:
        counts: [K_s, K_t] how often source class s was predicted for an example of target class t.
        mass: [K_s, K_t] sum of the probabilities, decides between equal counts.
        -> [K_t, per_class] source indices, the most frequent first.
    """
    num_targets = counts.shape[1]
    by_mass = mass.flatten().argsort(descending=True, stable=True)
    order = by_mass[counts.flatten()[by_mass].argsort(descending=True, stable=True)]
    chosen: list[list[int]] = [[] for _ in range(num_targets)]
    taken: set[int] = set()
    missing = num_targets * per_class
    for entry in order.tolist():
        source, target = divmod(entry, num_targets)
        if source in taken or len(chosen[target]) == per_class:
            continue
        taken.add(source)
        chosen[target].append(source)
        missing -= 1
        if missing == 0:
            break
    return torch.tensor(chosen, device=counts.device)
