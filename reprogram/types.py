"""Facts that travel between the layers. They come from code and data, never from YAML."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reprogram.errors import ConfigError


@dataclass(frozen=True)
class SourceSpec:
    """What everybody may know about a source model.

    Args:
        name: Shown in tables and records.
        image_size: Height and width (pixels) of the canvas the source takes.
        class_names: One name for each of the K_s source classes, in output order.
        feature_dim: Width of the penultimate features, or ``None`` when they cannot be reached.
        differentiable: Whether a gradient can flow through the source to its input.
        scores: Whether it says how sure it is; else its best class alone.
    """

    name: str
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    feature_dim: int | None = None
    differentiable: bool = True
    scores: bool = True

    @property
    def num_classes(self) -> int:
        """K_s."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class TaskSpec:
    """What everybody may know about a target task.

    Args:
        name: Shown in tables and records.
        class_names: One name for each of the K_t target classes; of two, the second is the positive one.
        image_size: Height and width (pixels) of the stored target images.
        support: Boolean mask [h, w], true where a target image carries data; ``None``: everywhere.
        ordinal: Whether the order of the classes means something (grades), so that kappa is the measure.
        private: Whether no target pixel may leave the run directory's machine (reports, W&B).
        licence: Licence of the data, as its publisher names it.
        citation: How to cite the data.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    support: Tensor | None = None
    ordinal: bool = False
    private: bool = True
    licence: str = "unknown"
    citation: str = "unknown"

    def __post_init__(self) -> None:
        """Refuses a task that cannot be learned or told apart."""
        if len(self.class_names) < 2:
            raise ConfigError(f"{self.name}: expected at least two target classes, got {list(self.class_names)}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ConfigError(f"{self.name}: expected distinct class names, got {list(self.class_names)}")
        if self.support is not None and (
            self.support.dtype != torch.bool or tuple(self.support.shape) != self.image_size
        ):
            raise ConfigError(
                f"{self.name}: expected a boolean support of {self.image_size}, "
                f"got {self.support.dtype} {tuple(self.support.shape)}"
            )

    @property
    def num_classes(self) -> int:
        """K_t."""
        return len(self.class_names)


class Batch(NamedTuple):
    """One process's share of a global batch.

    Shapes:
        images: [B, C, h, w], C = 1 or 3; uint8 as stored, or float32 in [0, 1] with C = 3 once on the device.
        targets: [B] int64 in 0..K_t-1.
        weights: [B] float32 such that the sum over all processes of ``weights * losses``, divided by the number of
            processes, is the mean loss of the global batch; 0 marks an example that only fills an empty share. Where
            labels are trusted to different degrees, each example's loss counts times trust / mean trust of the split:
            as class weights, these have mean 1 over the training set.
        indices: [B] int64, row of each example in its split: the same whatever the number of processes.
        trust: [B] float32 in (0, 1], how far each target is trusted; ``None``: all fully.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    indices: Tensor
    trust: Tensor | None = None


class StepLoss(NamedTuple):
    """What a gradient estimator hands back for one batch.

    Shapes:
        surrogate: [] to be differentiated: equal to the loss in value, and its gradient is the estimate.
        losses: [B] per-example losses, detached.
        log_probs: [B, K_s] what the source answered, detached: already paid for, so mappings learn from it.
        scores: [B, K_t] target log-scores, detached.
    """

    surrogate: Tensor
    losses: Tensor
    log_probs: Tensor
    scores: Tensor
