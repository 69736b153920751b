"""From what an API said to log-probabilities: labels get places, and what was not said is filled in."""

import json
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reprogram.errors import SourceError
from reprogram.sources.http.adapter import Answer, UnusableReply
from reprogram.sources.onnx import log_probabilities
from reprogram.sources.reported import LEAST_UNREPORTED

log = logging.getLogger(__name__)

ROUNDING = 1e-5  # of a sum of probabilities in float32
VECTOR = b"\0"  # no JSON begins so
OTHER = "other"
"""Name of the source class of all labels that are not in the list."""


def pack(answer: Answer) -> bytes:
    """An answer as it is kept: JSON of the labels, or float32 numbers after a zero."""
    if isinstance(answer, Tensor):
        return VECTOR + answer.numpy().astype(np.float32, copy=False).tobytes()
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


class Reader:
    """Reads answers of one API.

    Args:
        name: Of the source, for messages.
        classes: K_s names in output order, ``other`` last where the API reports labels.
        outputs: What vectors hold; see ``Adapter``.
        warn: Whether a label that is not in the list is worth a warning.

    Attributes:
        labels: In the answers so far.
    """

    def __init__(self, name: str, classes: Sequence[str], outputs: str, warn: bool = True) -> None:
        self.name, self.outputs, self.labels = name, outputs, set[str]()
        self._places = {label: place for place, label in enumerate(classes)}
        self._warns = warn

    def check(self, answers: Sequence[Answer]) -> None:
        """Refuses what must not be kept.

        Raises:
            UnusableReply: If a score is NaN or infinite, or their number is not K_s.
        """
        vectors = [answer for answer in answers if isinstance(answer, Tensor)]
        for vector in vectors:
            if len(vector) != len(self._places):
                raise UnusableReply(f"expected {len(self._places)} scores of an image, got {len(vector)}")
        scores = torch.stack(vectors).float() if vectors else torch.zeros(0, len(self._places))
        said = (score for answer in answers if not isinstance(answer, Tensor) for score in answer.values())
        if not (np.isfinite(scores.numpy()).all() and all(map(math.isfinite, said))):
            raise UnusableReply("expected finite scores, got NaN or infinity")
        if self.outputs == "logits":
            return
        try:
            log_probabilities(scores, self.outputs, self.name)
        except SourceError as error:
            raise UnusableReply(str(error)) from error

    def log_probs(self, kept: Sequence[bytes]) -> Tensor:
        """Kept answers as log-probabilities [B, K_s] float32.

        What the reported probabilities leave over (at least 1e-6 in all) is spread evenly over the unreported labels,
        though none of these gets more than the smallest reported one. Then all is renormalised: the scores of a
        service with several labels an image need not sum to one.
        """
        classes = len(self._places)
        if not kept:
            return torch.zeros(0, classes)
        if kept[0][:1] != VECTOR:
            return torch.stack([self._row(json.loads(one)) for one in kept])
        if any(len(one) != 1 + 4 * classes for one in kept):
            raise SourceError(
                f"{self.name}: expected stored answers of {classes} scores, got others: the model has changed; choose "
                "another access.ledger"
            )
        rows = np.frombuffer(b"".join(kept), np.uint8).reshape(len(kept), -1)
        scores = torch.from_numpy(rows[:, 1:].copy().view(np.float32))
        found = log_probabilities(scores, self.outputs, self.name)
        if self.outputs != "log_probabilities":
            return found
        # those of our own server come as they would in this process, and stay so to the last bit
        is_one = (scores.exp().sum(1, keepdim=True) - 1).abs() <= ROUNDING
        return torch.where(is_one & scores.isfinite(), scores, found)

    def _row(self, answer: Mapping[str, float]) -> Tensor:
        classes = len(self._places)
        reported = torch.zeros(classes, dtype=torch.float64)
        said = torch.zeros(classes, dtype=torch.bool)
        self.labels.update(answer)
        for label, score in answer.items():
            place = self._places.get(label)
            if place is None:
                self._warn_of(label)
                place = self._places[OTHER]
            reported[place] += score
            said[place] = True
        floor = LEAST_UNREPORTED / classes
        reported = reported.clamp_min(floor)
        if not said.all():
            rest = max(LEAST_UNREPORTED, 1 - float(reported[said].sum())) / int((~said).sum())
            reported[~said] = min(rest, float(reported[said].min()))
        return (reported / reported.sum()).log().float()

    def _warn_of(self, label: str) -> None:
        if self._warns:
            self._warns = False
            log.warning(
                "%s: '%s' is none of the %d classes of source.classes: it, and whatever else is not, counts as '%s'",
                *(self.name, label, len(self._places) - 1, OTHER),
            )
