"""Labels and scores, or scores alone, from the JSON of a reply."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reprogram.sources.http.adapter import UnusableReply

TOLERANCE = 1e-3
"""How far outside of [0, 1] a probability may lie, as a share of certainty: services round."""

MOST_SHOWN = 80


def labelled(labels: Sequence[Any], scores: Sequence[Any], certain: float = 1.0) -> dict[str, float]:
    """Probabilities by label, clamped to [0, 1]; those of several labels need not sum to one.

    Args:
        labels: Texts, or whole numbers that stand for classes.
        scores: One for each label.
        certain: The score of a certain label: 1, or 100 of percentages.

    Raises:
        UnusableReply: If there is no label, one is empty or comes twice, or a score is not in [0, ``certain``].
    """
    if not labels:
        raise UnusableReply("expected at least one label, got none")
    if len(labels) != len(scores):
        raise UnusableReply(f"expected one score for each label, got {len(labels)} labels and {len(scores)} scores")
    found: dict[str, float] = {}
    for label, score in zip(labels, scores, strict=True):
        if isinstance(label, bool) or not isinstance(label, str | int) or not _writable(str(label)):
            raise UnusableReply(f"expected a text as label, got {shown(label)}")
        if str(label) in found:
            raise UnusableReply(f"expected every label once, got {shown(label)} twice")
        number = not isinstance(score, bool) and isinstance(score, int | float)
        if not number or not -TOLERANCE * certain <= score <= (1 + TOLERANCE) * certain:
            raise UnusableReply(f"expected a score in [0, {certain:g}] of {shown(label)}, got {shown(score)}")
        found[str(label)] = min(max(score / certain, 0.0), 1.0)
    return found


def labelled_objects(found: Any, label: str, score: str) -> dict[str, float]:
    """Likewise from a list of objects that hold both under these keys.

    Raises:
        UnusableReply: Also if it is no such list.
    """
    if not isinstance(found, list) or not all(isinstance(one, dict) and {label, score} <= one.keys() for one in found):
        raise UnusableReply(f"expected a list of objects with {label} and {score}, got {shown(found)}")
    return labelled([one[label] for one in found], [one[score] for one in found])


def vector(found: Any, where: str) -> Tensor:
    """Numbers of a list [N], or of a list of lists of one length.

    Shapes:
        -> [N] or [N, ...] float64, N >= 1.

    Raises:
        UnusableReply: If it is no such list.
    """
    try:
        numbers = torch.tensor(found, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # null, texts, unequal lengths, 1 << 2000
        raise UnusableReply(f"expected a list of numbers at {where}, got {shown(found)}") from error
    if not numbers.ndim or not numbers.numel():
        raise UnusableReply(f"expected a list of numbers at {where}, got {shown(found)}")
    return numbers


def shown(value: Any) -> str:
    """The beginning of a part of a reply, for a message."""
    text = json.dumps(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def _writable(label: str) -> bool:
    """Whether it has characters, and UTF-8 for all of them: JSON may hold halves of characters."""
    try:
        return bool(label.encode())
    except UnicodeEncodeError:
        return False
