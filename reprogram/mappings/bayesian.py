"""Bayesian label mapping: every source class speaks for each target class as often as it was right about it."""

import math

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError
from reprogram.mappings.base import LabelMapping, RefitSchedule
from reprogram.mappings.statistics import ResponseStatistics
from reprogram.mappings.weighting import expect_positive

UNSEEN = math.log(1e-6)
"""What is added to the score of a target class that no example was seen of."""


class BayesianMapping(ResponseStatistics, LabelMapping):
    """Averages log-probabilities with weights that are estimates of P(target class | source class).

    share[s, t] = N[s, t] / (sum_t N[s, t] + laplace)
    omega[s, t] = share[s, t] / sum_s share[s, t]
    score[t] = sum_s omega[s, t] log p[s] / temperature

    BLM: N[s, t] counts the examples of class t that the source takes for s. BLM+: N[s, t] sums the probabilities p[s]
    of the examples of class t, where s is among the k likeliest of the example, k = max(1, floor(top_share * K_t)), and
    at most K_s.

    A source answers with log-probabilities, not with the logits of the paper. They differ by one number for each image,
    which the weights of a target class, having the sum 1, pass on to every score alike: softmax and decision are those
    of the paper.

    Args:
        source_classes: K_s.
        target_classes: K_t, which may be more than K_s.
        top_share: ``None``: BLM. A number in (0, 1]: BLM+, with as many source classes of each example as this share of
            the number of *target* classes; 0.15 in the paper.
        laplace: Lambda, examples without a class that each source class is given, > 0: a source class that was seldom
            predicted counts less.
        temperature: Divides the scores, > 0.
        refresh: See ``RefitSchedule``.
        decay: What a refit leaves of the sums for the next one, in [0, 1); see ``ResponseStatistics``.
        refit_at_end: See ``RefitSchedule``.

    Raises:
        ConfigError: If a number is outside its range.

    Reference:
        Bayesian-guided Label Mapping for Visual Reprogramming, Cai et al., NeurIPS 2024, arXiv:2410.24018; code
        tmlr-group/BayesianLM. The name of BLM+ is ``blmpp`` in its README and ``blmp`` in its parser. Differences from
        that code:

        - its k = int(0.15 K_t) is 0 below 7 target classes: all weights are 0/0. Ours is at least 1;
        - it takes the number of classes from the labels that occur, and fails where one is missing. Here a missing
          class gets the mean score of those seen less 13.8 (a millionth), so it is never decided for;
        - its weights are recomputed by a pass over the data before each epoch (``train_vm.py``), here from the training
          forwards of the epoch, as its ``train_vm_fast.py`` does; ``refresh=validation`` takes fresh passes.

        As there, lambda is in the denominator alone: a source class that was never predicted has no weight.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        top_share: float | None,
        laplace: float = 1.0,
        temperature: float = 1.0,
        refresh: str | int = 1,
        decay: float = 0.0,
        refit_at_end: bool = False,
    ) -> None:
        if top_share is not None and not 0 < top_share <= 1:
            raise ConfigError(
                f"mapping.top_share: expected null or a number in (0, 1] (of {target_classes} target classes), "
                f"got {top_share}"
            )
        expect_positive("laplace", laplace)
        expect_positive("temperature", temperature)
        top = None if top_share is None else max(1, math.floor(top_share * target_classes))
        super().__init__(source_classes, target_classes, decay, top)
        self.schedule = RefitSchedule(refresh, refit_at_end)
        self.laplace, self.temperature = laplace, temperature
        first = torch.arange(target_classes) % source_classes  # until the first fit
        self.register_buffer("weight", nn.functional.one_hot(first, source_classes).float())  # omega, transposed
        self.register_buffer("bias", torch.zeros(target_classes))

    def forward(self, log_probs: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.linear(log_probs, self.weight, self.bias) / self.temperature

    def refit(self) -> None:
        """Estimates the weights from the responses of all processes; without any, they stay."""
        found = self.use_up()
        if found is not None:
            counts, mass = found
            weight, seen = bayesian_weight(counts if self.top is None else mass, self.laplace)
            self.weight.copy_(weight)
            self.bias.copy_(UNSEEN * ~seen)


def bayesian_weight(joint: Tensor, laplace: float) -> tuple[Tensor, Tensor]:
    """Weights omega of source classes, and whether a target class was seen at all.

    Shapes:
        joint: [K_s, K_t] N, with at least one entry above 0.
        -> [K_t, K_s] non-negative, rows of sum 1; of an unseen class, the mean of the others. [K_t] boolean.
    """
    shares = joint / (joint.sum(dim=1, keepdim=True) + laplace)
    totals = shares.sum(dim=0)
    seen = totals > 0
    weight = (shares / totals).T
    weight[~seen] = weight[seen].mean(dim=0)
    return weight, seen
