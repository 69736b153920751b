"""Losses of single examples: target log-scores and targets in, one number per example out."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reprogram.errors import ConfigError


class Loss(nn.Module, ABC):
    """Per-example loss; the batch's is their mean (or a weighted one with weights of mean 1 over the training set)."""

    @abstractmethod
    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Scores [B, K_t] (any real log-scores), targets [B] -> [B], each >= 0."""


class CrossEntropy(Loss):
    """- log softmax(scores)[target]."""

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """See ``Loss``."""
        return cross_entropy(scores, targets, reduction="none")


class ClassBalanced(Loss):
    """Cross-entropy weighted by the inverse effective number of examples of the target's class.

    w_c = (1 - beta) / (1 - beta^n_c), scaled to mean 1 over the training set    (Cui et al., 2019, Eq. 3)

    Args:
        class_counts: n_c, training examples of each class; a missing class never contributes.
        beta: In [0, 1): 0 weighs all classes alike, towards 1 by inverse frequency.

    Raises:
        ConfigError: If beta is outside [0, 1).

    Reference:
        Class-Balanced Loss Based on Effective Number of Samples, Cui et al., CVPR 2019, arXiv:1901.05555.
    """

    class_weights: Tensor

    def __init__(self, class_counts: Tensor, beta: float = 0.999) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ConfigError(f"loss.beta: expected a number in [0, 1), got {beta}")
        counts = class_counts.double()
        weights = (1 - beta) / (1 - beta ** counts.clamp(min=1))
        weights = weights * counts.sum() / (weights * counts).sum()
        self.register_buffer("class_weights", weights.float(), persistent=False)

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """See ``Loss``."""
        return self.class_weights[targets] * cross_entropy(scores, targets, reduction="none")


class Focal(Loss):
    """Cross-entropy that fades for examples already classified well, with weights for rare classes.

    - w_c (1 - p_target)^gamma log p_target,  w_c proportional to 1 / n_c, mean 1 over the training set

    Args:
        class_counts: n_c, training examples of each class.
        gamma: Focusing, >= 0.
        balanced: Whether w_c is used; else all weights are 1.
        normalize: Whether scores are log-softmaxed to probabilities first; ``False`` takes exp(scores) as they are
            (BAR: the average of the mapped source probabilities).

    Raises:
        ConfigError: If gamma is negative.

    Reference:
        Focal Loss for Dense Object Detection, Lin et al., ICCV 2017, arXiv:1708.02002; as used by BAR (Tsai, Chen, Ho,
        ICML 2020, arXiv:2007.08714) with gamma = 2 and w = 1 / n_c.
    """

    class_weights: Tensor

    def __init__(self, class_counts: Tensor, gamma: float = 2.0, balanced: bool = True, normalize: bool = True) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ConfigError(f"loss.gamma: expected a number >= 0, got {gamma}")
        self.gamma, self.normalize = gamma, normalize
        counts = class_counts.double()
        weights = torch.ones_like(counts)
        if balanced:
            weights = 1 / counts.clamp(min=1)
            weights = weights * counts.sum() / (weights * counts).sum()
        self.register_buffer("class_weights", weights.float(), persistent=False)

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """See ``Loss``."""
        log_probs = scores.log_softmax(dim=1) if self.normalize else scores
        log_p = log_probs.gather(1, targets[:, None]).squeeze(1)
        # 1 - p as -expm1(log p): exact for p near 1, where the factor matters most; never 0, whose power has no slope
        return -self.class_weights[targets] * (-torch.expm1(log_p)).clamp(min=1e-12) ** self.gamma * log_p
