"""Scores one split with a reprogrammed classifier."""

import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader
from reprogram.evaluation.predictions import Predictions

PURPOSES = {"val": "validation", "test": "test"}  # of queries, by split


@torch.inference_mode()
def score(
    classifier: ReprogrammedClassifier, examples: Examples, split: str, batch_size: int, device: torch.device
) -> Predictions:
    """Predicts every example of a split once, in order."""
    loader = BatchLoader(examples, batch_size, shuffle=False, seed=0, device=device)
    with classifier.source.asked_for(PURPOSES.get(split, "other")):
        probabilities = torch.cat([classifier(batch.images).double() for batch in loader]).cpu()
    targets, scores = examples.targets.numpy(), probabilities.numpy()
    return Predictions(split, examples.ids, targets, scores, examples.groups, examples.attributes)
