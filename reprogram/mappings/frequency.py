"""Frequency label mapping: each target class takes the source classes its images are mistaken for most often."""

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings.assignment import check_room
from reprogram.mappings.base import LabelMapping, RefitSchedule
from reprogram.mappings.statistics import ResponseStatistics
from reprogram.mappings.weighting import Weighting


class FrequencyMapping(ResponseStatistics, LabelMapping):
    """Assigns source classes by how often they are predicted for each target class.

    With ``refresh=once`` this is FLM, with ``refresh=1`` ILM (counted from the training forward itself, so on the
    responses of the epoch before, not by a second pass over the data).

    Args:
        source_classes: K_s.
        target_classes: K_t.
        per_class: m, source classes for each target class; their probabilities are averaged.
        assign: ``greedy`` takes the largest count that is left again and again; ``optimal`` the assignment with the
            largest sum of counts, so a class may cede its favourite where that costs the others more.
        learn: Whether the weights of the m source classes, and the temperature, follow the gradient; see ``Weighting``.
            The j-th weight is that of the j-th most frequent source class, so it keeps its meaning when these change.
        temperature: Divides the scores, > 0; with ``learn``, its start.
        refresh: See ``RefitSchedule``.
        decay: What a refit leaves of the sums for the next one, in [0, 1); see ``ResponseStatistics``.
        refit_at_end: See ``RefitSchedule``.

    Raises:
        ConfigError: If the source classes do not suffice, or a choice has no such name or is outside its range.

    Reference:
        Understanding and Improving Visual Prompting: A Label-Mapping Perspective, Chen et al., CVPR 2023,
        arXiv:2211.11635 (FLM, ILM; m = 1); code OPTML-Group/ILM-VP. m:1 averaging: Tsai et al., ICML 2020 (BAR).
        Optimal assignment, decay and learned weights are our own. Differences from that code: ties between equal counts
        are broken by the mean probability; a class without examples takes what the others leave, where that code only
        knows as many classes as occur; m > 1 works, where that code flattens the mapping and cannot score with it.
    """

    assignment: Tensor

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        per_class: int = 1,
        assign: str = "greedy",
        learn: bool = False,
        temperature: float = 1.0,
        refresh: str | int = 1,
        decay: float = 0.0,
        refit_at_end: bool = False,
    ) -> None:
        check_room(source_classes, target_classes, per_class)
        if assign not in ("greedy", "optimal"):
            raise ConfigError(f"mapping.assign: expected greedy or optimal, got '{assign}'")
        super().__init__(source_classes, target_classes, decay)
        self.schedule = RefitSchedule(refresh, refit_at_end)
        self._assign = greedy_assignment if assign == "greedy" else optimal_assignment
        first = torch.arange(target_classes * per_class).view(target_classes, per_class)
        self.register_buffer("assignment", first)
        self.weighting = Weighting(target_classes, per_class, learn, temperature)

    def forward(self, log_probs: Tensor) -> Tensor:
        """See ``Weighting``."""
        scores: Tensor = self.weighting(log_probs, self.assignment)
        return scores

    def refit(self) -> None:
        """Assigns anew from the counts of all processes; without any, the assignment stays."""
        found = self.use_up()
        if found is not None:
            self.assignment.copy_(self._assign(*found, self.assignment.shape[1]))


def greedy_assignment(counts: Tensor, mass: Tensor, per_class: int) -> Tensor:
    """Takes the largest entries first; a source class is taken once, a target class takes ``per_class``.

    Shapes:
        counts: [K_s, K_t] float64, how often source class s was predicted for an example of target class t.
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


def optimal_assignment(counts: Tensor, mass: Tensor, per_class: int) -> Tensor:
    """Finds the assignment with the largest sum of counts, and among those the one with the largest sum of mass.

    With a decay, or targets not trusted fully, counts are no whole numbers: there mass decides between sums that differ
    by less than one as well.

    Shapes:
        As of ``greedy_assignment``.
    """
    from scipy.optimize import linear_sum_assignment

    # no assignment has more mass than there are examples: all of it weighs less than one count
    value = counts + mass / (counts.sum() + 1)
    copies = value.repeat_interleave(per_class, dim=1)  # the m places of a target class side by side
    sources, places = linear_sum_assignment(copies.cpu().numpy(), maximize=True)
    by_place = torch.empty(len(places), dtype=torch.int64)
    by_place[torch.from_numpy(places)] = torch.from_numpy(sources)
    chosen = by_place.view(-1, per_class).to(counts.device)
    order = value.gather(0, chosen.T).argsort(dim=0, descending=True, stable=True)
    return chosen.T.gather(0, order).T.contiguous()
