"""Baselines in which nothing is learned, or only the mapping."""

import copy

import numpy as np
import torch

from reprogram.data.base import Examples
from reprogram.evaluation.baselines.setting import Predict, Scores, Setting, softmax


def majority(setting: Setting) -> Predict:
    """The class frequencies of the training split, as far as its labels are trusted, for every example."""
    train = setting.data.splits["train"]  # labels cost no query: all of them count
    counts = np.bincount(train.targets.numpy(), train.weights(), minlength=setting.data.spec.num_classes)
    return lambda examples: np.tile(counts / counts.sum(), (len(examples), 1))


def mapping_only(setting: Setting) -> Predict:
    """The untrained program and the configured mapping, fitted once where it can be fitted."""
    mapping, source = copy.deepcopy(setting.classifier.mapping).cpu(), setting.classifier.source

    def log_probs(examples: Examples) -> torch.Tensor:
        return setting.asked(examples, lambda images: source(setting.classifier.compose(images)))

    if not mapping.schedule.fixed:
        mapping.observe(log_probs(setting.train), setting.train.targets, setting.train.trust)
        mapping.refit()

    @torch.inference_mode()
    def predict(examples: Examples) -> Scores:
        return softmax(mapping(log_probs(examples)))

    return predict
