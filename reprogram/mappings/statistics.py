"""How often, and how surely, examples of each target class are taken for each source class."""

import torch
from torch import Tensor, nn

from reprogram.distributed import is_first_process, sum_over_processes
from reprogram.errors import ConfigError


class ResponseStatistics(nn.Module):
    """Adds up responses as they come; a mapping that is fitted to such sums inherits from this beside ``LabelMapping``.

    After a refit the sums are multiplied by ``decay``, so that the n-th refit uses

    S_n = (what was observed since the last refit) + decay * S_(n-1)

    which never takes a second pass over the data. The sums are part of the state. What is decayed stays with the first
    process alone, so that nothing is counted twice.

    Attributes:
        counts: [K_s, K_t] float64, how often source class s was the likeliest for an example of target class t: whole
            numbers, unless there is a decay or targets are not trusted fully; such an example adds its trust.
        mass: [K_s, K_t] float64 sum of the probabilities of source class s, times trust, over the examples of target
            class t.

    Args:
        source_classes: K_s.
        target_classes: K_t.
        decay: What a refit leaves of the sums, in [0, 1); 0: nothing.
        top: How many of the likeliest source classes of each example enter the mass, >= 1; ``None``: all.

    Raises:
        ConfigError: If the decay is outside [0, 1).
    """

    counts: Tensor
    mass: Tensor
    fresh: Tensor

    def __init__(self, source_classes: int, target_classes: int, decay: float = 0.0, top: int | None = None) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(f"mapping.decay: expected a number in [0, 1), got {decay}")
        self.decay, self.top = decay, None if top is None else min(top, source_classes)
        shape = (source_classes, target_classes)
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("mass", torch.zeros(shape, dtype=torch.float64))
        if decay:  # examples since the last refit, which the sums cannot tell any more
            self.register_buffer("fresh", torch.tensor(0))

    def observe(self, log_probs: Tensor, targets: Tensor, trust: Tensor | None = None) -> None:
        """Counts the likeliest source class of each example, and adds up its probabilities.

        Shapes:
            log_probs: [B, K_s]; targets: [B] in 0..K_t-1; trust: [B] in (0, 1], ``None``: all 1.
        """
        weights = (torch.ones_like(targets) if trust is None else trust).double()
        pairs = log_probs.argmax(dim=1) * self.counts.shape[1] + targets
        new = torch.zeros(self.counts.numel(), dtype=torch.float64, device=pairs.device)  # bincount would wait for CUDA
        self.counts += new.index_add_(0, pairs, weights).view_as(self.counts)
        probabilities = log_probs.to(torch.float64, copy=True).exp_()
        if trust is not None:
            probabilities *= weights[:, None]
        if self.top is None:
            self.mass.index_add_(1, targets, probabilities.T)
        else:
            kept = probabilities.topk(self.top, dim=1)
            pairs = kept.indices * self.mass.shape[1] + targets[:, None]
            self.mass.view(-1).index_add_(0, pairs.flatten(), kept.values.flatten())
        if self.decay:
            self.fresh += len(targets)

    def total(self) -> tuple[Tensor, Tensor]:
        """Counts and mass of all processes together, on each."""
        return sum_over_processes(self.counts), sum_over_processes(self.mass)

    def collect(self) -> None:
        """Moves the sums of all processes to the first one."""
        totals = [sum_over_processes(part) for part in self._parts()]
        self.reset()
        if is_first_process():
            for part, total in zip(self._parts(), totals, strict=True):
                part.copy_(total)

    def reset(self) -> None:
        """Forgets everything, what is left of earlier refits included."""
        for part in self._parts():
            part.zero_()

    def use_up(self) -> tuple[Tensor, Tensor] | None:
        """Hands ``total`` to a refit and keeps ``decay`` of it; ``None`` if nothing was observed since the last time.

        Called on every process, and equal on all.
        """
        counts, mass = self.total()
        if not (sum_over_processes(self.fresh) if self.decay else counts.sum()):
            return None
        self.reset()
        if self.decay and is_first_process():
            self.counts.copy_(self.decay * counts)
            self.mass.copy_(self.decay * mass)
        return counts, mass

    def _parts(self) -> list[Tensor]:
        return [self.counts, self.mass, *([self.fresh] if self.decay else [])]
