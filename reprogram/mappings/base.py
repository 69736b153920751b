"""The interface of every label mapping."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from reprogram.errors import ConfigError


@dataclass(frozen=True)
class RefitSchedule:
    """When a mapping is fitted anew to the source's responses.

    Args:
        refresh: ``never`` · ``once``, before the first step, on one pass over the training set · ``validation``: then,
            and before every validation, on a fresh pass with the program of the moment · a number n: once, and at the
            start of every n-th epoch on the responses of the training forwards since the last time.
        at_end: Once more after the last step, on one pass with the final program; kept if validation agrees.
        fixed: The mapping has nothing that could be fitted.

    Raises:
        ConfigError: If ``refresh`` is anything else.
    """

    refresh: str | int = "never"
    at_end: bool = False
    fixed: bool = False

    def __post_init__(self) -> None:
        """Refuses a schedule that means nothing."""
        is_number = isinstance(self.refresh, int) and not isinstance(self.refresh, bool)
        if self.refresh not in ("never", "once", "validation") and not (is_number and int(self.refresh) >= 1):
            raise ConfigError(
                f"mapping.refresh: expected never, once, validation, or a number of epochs >= 1, got {self.refresh!r}"
            )

    @property
    def at_start(self) -> bool:
        """Whether one pass over the training set precedes the first step."""
        return self.refresh != "never"

    @property
    def before_validation(self) -> bool:
        """Whether a pass precedes every validation."""
        return self.refresh == "validation"

    @property
    def observes_training(self) -> bool:
        """Whether the responses of training steps are needed."""
        return isinstance(self.refresh, int)

    def due(self, epoch: int) -> bool:
        """Whether to refit at the start of this epoch, from training responses."""
        return isinstance(self.refresh, int) and epoch > 0 and epoch % self.refresh == 0


class LabelMapping(nn.Module, ABC):
    """Turns source log-probabilities into target log-scores; always on our side of the source.

    A mapping that is fitted keeps its own statistics of the responses it has seen, as torchmetrics does: ``observe``
    adds to them, ``refit`` uses them up. None of the methods below ``forward`` does anything for one that is not.
    """

    schedule: RefitSchedule

    @abstractmethod
    def forward(self, log_probs: Tensor) -> Tensor:
        """Scores target classes: [B, K_s] log-probabilities -> [B, K_t] real log-scores, larger is likelier."""

    def observe(self, log_probs: Tensor, targets: Tensor, trust: Tensor | None = None) -> None:
        """Takes note of responses already paid for.

        Shapes:
            log_probs: [B, K_s], detached; targets: [B]; trust: [B] in (0, 1], how far each target is trusted, ``None``:
                all fully.
        """

    def collect(self) -> None:
        """Moves what all processes observed to the first one."""

    def reset(self) -> None:
        """Forgets what was observed."""

    def refit(self) -> None:
        """Fits to what was observed since the last time; called on every process, ends equal on all."""
