"""Linear label mapping: every source class speaks for every target class."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reprogram.distributed import concatenate_over_processes, from_first_process
from reprogram.mappings.base import LabelMapping, RefitSchedule
from reprogram.mappings.logistic import fit_logistic


class LinearMapping(LabelMapping):
    """Multiplies log-probabilities by a matrix that is learned with the program, fitted to responses, or both.

    scores = A log p + b

    The fit is convex (cross-validated logistic regression), costs no query beyond those already made, and is the
    strongest cheap start there is; gradient steps then move it together with the program.

    Args:
        source_classes: K_s.
        target_classes: K_t.
        learn: Whether A and b follow the gradient too.
        refresh: See ``RefitSchedule``: when A and b are fitted.
        refit_at_end: See ``RefitSchedule``.
        seed: Of the small random start (used until the first fit) and of the folds.

    Reference:
        "FullyMap" of AutoVP, Tsao et al., ICLR 2024, arXiv:2310.08381. Differences: acts on log-probabilities, which is
        all that an API returns, and can be fitted instead of learned.
    """

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        learn: bool = True,
        refresh: str | int = "once",
        refit_at_end: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.schedule = RefitSchedule(refresh, refit_at_end)
        self.seed = seed
        start = torch.randn(target_classes, source_classes, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(0.01 * start / source_classes**0.5, requires_grad=learn)
        self.bias = nn.Parameter(torch.zeros(target_classes), requires_grad=learn)
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._strength: float | None = None  # of the penalty: chosen by the first fit, for all

    def forward(self, log_probs: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.linear(log_probs, self.weight, self.bias)

    def observe(self, log_probs: Tensor, targets: Tensor, trust: Tensor | None = None) -> None:
        """Keeps the responses until the next fit, which each example enters with the weight of its trust."""
        trust = torch.ones_like(targets, dtype=torch.float32) if trust is None else trust
        self._rows.append((log_probs.float(), targets, trust))  # where they are: nothing waits for them before the fit

    def collect(self) -> None:
        """Gathers the responses of all processes on the first."""
        rows = concatenate_over_processes(self._responses())
        self.reset()
        if rows is not None:
            self._rows = [(rows["log_probs"], rows["targets"], rows["trust"])]

    def reset(self) -> None:
        """Forgets all responses."""
        self._rows = []

    @torch.no_grad()
    def refit(self) -> None:
        """Fits A and b on the first process to the responses of all; without any, they stay."""
        self.collect()
        rows = self._responses()
        self.reset()
        if len(rows["targets"]):
            # an order that the number of processes cannot change: it decides the folds
            keys = (rows["trust"].numpy(), rows["log_probs"][:, 0].numpy(), rows["targets"].numpy())
            order = np.lexsort(keys)
            features, targets = rows["log_probs"].double().numpy()[order], keys[-1][order]
            trust = rows["trust"].double().numpy()[order] if bool((rows["trust"] < 1).any()) else None
            fit = fit_logistic(
                features, targets, len(self.bias), seed=self.seed, strength=self._strength, weights=trust
            )
            self._strength = fit.strength
            self.weight.copy_(torch.from_numpy(fit.weight))
            self.bias.copy_(torch.from_numpy(fit.bias))
        weight_and_bias = from_first_process((self.weight.detach().cpu(), self.bias.detach().cpu()))
        self.weight.copy_(weight_and_bias[0])
        self.bias.copy_(weight_and_bias[1])

    def get_extra_state(self) -> dict[str, Any]:
        """Responses not yet used and the strength chosen: a resumed run must fit to the same ones."""
        return {**self._responses(), "strength": self._strength}

    def set_extra_state(self, state: Any) -> None:
        """Takes back what ``get_extra_state`` gave."""
        trust = state.get("trust", torch.ones(len(state["targets"])))  # a state of before there was one
        self._rows, self._strength = [(state["log_probs"], state["targets"], trust)], state["strength"]

    def _responses(self) -> dict[str, Tensor]:
        if not self._rows:
            empty = torch.empty(0)
            return {"log_probs": torch.empty(0, self.weight.shape[1]), "targets": empty.long(), "trust": empty}
        names, columns = ("log_probs", "targets", "trust"), zip(*self._rows, strict=True)
        return {  # some may come from a checkpoint
            name: torch.cat([rows.cpu() for rows in column]) for name, column in zip(names, columns, strict=True)
        }
