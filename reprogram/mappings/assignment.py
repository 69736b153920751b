"""Fixed many-to-one label mapping: each target class owns m source classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings.base import LabelMapping, RefitSchedule
from reprogram.mappings.weighting import Weighting


def check_room(source_classes: int, target_classes: int, per_class: int) -> None:
    """Refuses more source classes than there are.

    Raises:
        ConfigError: If ``per_class < 1`` or ``per_class * target_classes > source_classes``.
    """
    if per_class < 1 or per_class * target_classes > source_classes:
        raise ConfigError(
            f"mapping.per_class: {target_classes} target classes x {per_class} source classes each do not fit into "
            f"{source_classes} source classes; "
            + (f"expected 1 to {most}" if (most := source_classes // target_classes) else "choose another mapping")
        )


class AssignmentMapping(LabelMapping):
    """Keeps a given, first-k or random assignment.

    Args:
        source_classes: K_s.
        target_classes: K_t.
        choice: ``first`` (target class t takes source classes t*m .. t*m+m-1), ``random``, or ``given``.
        per_class: m, source classes for each target class; with ``given``, taken from the list.
        given: K_t lists of m distinct source indices, for ``choice=given``.
        learn: Whether the weights of the m source classes, and the temperature, follow the gradient; see ``Weighting``.
        temperature: Divides the scores, > 0; with ``learn``, its start.
        seed: Of the random choice.

    Raises:
        ConfigError: If the source classes do not suffice, the given list is not K_t x m distinct indices, or the
            temperature is not above 0.

    Reference:
        First-k: Elsayed et al., ICLR 2019. Random m:1: Tsai et al., ICML 2020 (BAR). Learned weights are our own.
    """

    assignment: Tensor

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        choice: str = "first",
        per_class: int = 1,
        given: Sequence[Sequence[int]] | None = None,
        learn: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.schedule = RefitSchedule(fixed=True)
        if choice not in ("first", "random", "given"):
            raise ConfigError(f"mapping.choice: expected first, random or given, got '{choice}'")
        if (choice == "given") != (given is not None):
            raise ConfigError("mapping.given: expected together with mapping.choice=given, and only then")
        if given is not None:
            lists = [list(row) for row in given]
            flat = [index for row in lists for index in row]
            if (
                len(lists) != target_classes
                or len({len(row) for row in lists}) != 1
                or len(set(flat)) != len(flat)
                or not flat
                or not all(isinstance(index, int) and 0 <= index < source_classes for index in flat)
            ):
                raise ConfigError(
                    f"mapping.given: expected {target_classes} lists of equal length with distinct source indices in "
                    f"0..{source_classes - 1}, got {lists}"
                )
            assignment = torch.tensor(lists)
        else:
            check_room(source_classes, target_classes, per_class)
            order = torch.arange(source_classes)
            if choice == "random":
                order = torch.randperm(source_classes, generator=torch.Generator().manual_seed(seed))
            assignment = order[: target_classes * per_class].view(target_classes, per_class)
        self.register_buffer("assignment", assignment)
        self.weighting = Weighting(target_classes, assignment.shape[1], learn, temperature)

    def forward(self, log_probs: Tensor) -> Tensor:
        """See ``Weighting``."""
        scores: Tensor = self.weighting(log_probs, self.assignment)
        return scores
