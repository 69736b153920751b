"""What a baseline is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import BatchLoader, to_float
from reprogram.sources.base import SourceModel

Scores = NDArray[np.float64]
Predict = Callable[[Examples], Scores]
Answer = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Setting:
    """What all baselines of a run share.

    Args:
        classifier: Untrained; its program and mapping are those that training starts from, unless that is told to start
            from what another run has learned.
        data: The target task.
        train: Training images that the source may be asked about; what asks it nothing uses all of them.
        batch_size: Examples of a forward.
        device: Where the classifier is.
        local_source: Makes the backbone that the user has at home.
        fine_tuning: Trains a copy of the source.
        queries: Images that the source was asked about.
    """

    classifier: ReprogrammedClassifier
    data: TaskData
    train: Examples
    batch_size: int
    device: torch.device
    local_source: Callable[[], SourceModel]
    fine_tuning: "Baseline"
    queries: int = 0

    @torch.inference_mode()
    def answers(self, examples: Examples, answer: Answer) -> Tensor:
        """Answers [N, ...], on the CPU, to float images [B, 3, h, w] that go to nobody else."""
        loader = BatchLoader(examples, self.batch_size, shuffle=False, seed=0, device=self.device)
        return torch.cat([answer(to_float(batch.images)).cpu() for batch in loader])

    def asked(self, examples: Examples, answer: Answer) -> Tensor:
        """Answers that the source gives: every image is a query."""
        self.queries += len(examples)
        return self.answers(examples, answer)


Baseline = Callable[[Setting], Predict]


def whole(images: Tensor, source: SourceModel) -> Tensor:
    """Target images [B, 3, h, w] resized to the whole canvas of a source."""
    return interpolate(images, source.spec.image_size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def softmax(scores: Tensor) -> Scores:
    """Class probabilities of scores [N, K_t]."""
    probabilities: Scores = scores.double().softmax(dim=1).numpy()
    return probabilities
