"""The schema of Hugging Face's image classification: an image file goes in, labels and scores come out.

https://huggingface.co/docs/inference-providers/tasks/image-classification
"""

import re
from typing import Any

import numpy as np

from reprogram.errors import DataError
from reprogram.serving.model import Answer, Facts


def number_of_labels(text: str | None) -> int | None:
    """The ``top_k`` of a request; ``None``: all.

    Raises:
        DataError: If it is no whole number above 0.
    """
    if text is None:
        return None
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise DataError(f"top_k: expected a whole number >= 1, got {text!r:.80}")
    return int(text)


def labels(answer: Answer, facts: Facts, top_k: int | None) -> list[dict[str, Any]]:
    """The answer to one image: ``label`` and ``score`` (a probability) of each class, the likeliest first.

    A classifier that decides says by ``decided`` which class it decides for: by its threshold that may be the second.
    """
    scores = answer.scores[0].astype(np.float64)
    probabilities = np.exp(scores) if facts.outputs == "log_probabilities" else scores
    order = np.argsort(-np.where(np.isnan(probabilities), np.inf, probabilities), kind="stable")
    found: list[dict[str, Any]] = [
        {"label": facts.class_names[row], "score": float(probabilities[row])} for row in order[:top_k].tolist()
    ]
    if answer.decided is not None:
        for row, entry in zip(order[:top_k].tolist(), found, strict=True):
            entry["decided"] = row == int(answer.decided[0])
    return found
