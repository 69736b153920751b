"""From what an API said to log-probabilities: labels get places, and what was not said is filled in."""

import json
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reprogram.errors import SourceError
from reprogram.sources.http.adapter import Answer, UnusableReply
from reprogram.sources.onnx import log_probabilities
from reprogram.sources.reported import LEAST_UNREPORTED

log = logging.getLogger(__name__)

OTHER = "other"
"""Name of the source class of all labels that are not in the list."""


def pack(answer: Answer) -> bytes:
    """An answer as it is kept: JSON of the labels, or float32 numbers after a zero."""
    if isinstance(answer, Tensor):
        return b"\0" + answer.numpy().astype(np.float32).tobytes()
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(kept: bytes) -> Answer:
    """The answer that was kept."""
    if kept[:1] == b"\0":
        return torch.from_numpy(np.frombuffer(kept, np.float32, offset=1).copy())
    found: dict[str, float] = json.loads(kept)
    return found


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

    def check(self, answer: Answer) -> None:
        """Refuses what must not be kept.

        Raises:
            UnusableReply: If a score is NaN or infinite, or their number is not K_s.
        """
        if isinstance(answer, Tensor):
            if len(answer) != len(self._places):
                raise UnusableReply(f"expected {len(self._places)} scores of an image, got {len(answer)}")
            finite = bool(answer.isfinite().all())
        else:
            finite = all(np.isfinite(score) for score in answer.values())
        if not finite:
            raise UnusableReply("expected finite scores, got NaN or infinity")
        if isinstance(answer, Tensor):
            try:
                log_probabilities(answer[None], self.outputs, self.name)
            except SourceError as error:
                raise UnusableReply(str(error)) from error

    def log_probs(self, kept: Sequence[bytes]) -> Tensor:
        """Kept answers as log-probabilities [B, K_s] float32.

        What the reported probabilities leave over (at least 1e-6 in all) is spread evenly over the unreported labels,
        though none of these gets more than the smallest reported one. Then all is renormalised: the scores of a
        service with several labels an image need not sum to one.
        """
        answers = [unpack(one) for one in kept]
        rows = [self._row(answer) for answer in answers]
        return torch.stack(rows) if rows else torch.zeros(0, len(self._places))

    def _row(self, answer: Answer) -> Tensor:
        if isinstance(answer, Tensor):
            return log_probabilities(answer[None], self.outputs, self.name)[0]
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
