"""Cross-validated logistic regression, on four kinds of features."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from reprogram.data.base import Examples
from reprogram.evaluation.baselines.setting import Answer, Predict, Setting, softmax, whole
from reprogram.mappings.logistic import fit_logistic
from reprogram.sources.base import SourceModel
from reprogram.sources.features import penultimate

RAW_SIDE = 64  # pixels
RAW_NUMBERS = 4 * 10**7  # of the training matrix: a minute or two of fitting, and 1 GB


def raw_linear(setting: Setting) -> Predict:
    """On pixels as stored, those within the support; one channel of grey images.

    Images without a support are averaged over areas: to at most 64 pixels a side, and to half of that as often as the
    training images would hold more than 40 million numbers.
    """
    support, images = setting.data.spec.support, setting.data.splits["train"].images
    channels, *size = images.shape[1:]
    side = RAW_SIDE
    while len(images) * channels * min(side, size[0]) * min(side, size[1]) > RAW_NUMBERS:
        side //= 2

    def pixels(images: Tensor) -> Tensor:
        images = images[:, :channels]
        if support is not None:
            return images[:, :, support.to(images.device)].flatten(1)
        return interpolate(images, [min(side, length) for length in size], mode="area").flatten(1)

    return _logistic(setting, pixels, free=True, per_feature=False)


def linear_probe(setting: Setting) -> Predict:
    """On the source's log-probabilities of the plain target image, resized to the whole canvas."""
    source = setting.classifier.source
    return _logistic(setting, lambda images: source(whole(images, source)), free=False, per_feature=True)


def feature_probe(setting: Setting) -> Predict:
    """On the source's penultimate features of the same image: only in a white box."""
    return _logistic(setting, _features(setting.classifier.source), free=False, per_feature=False)


def local_probe(setting: Setting) -> Predict:
    """On the penultimate features of a local backbone: free of queries, so what a black box must beat."""
    source = setting.local_source().to(setting.device)
    return _logistic(setting, _features(source), free=True, per_feature=False)


def _features(source: SourceModel) -> Answer:
    return lambda images: penultimate(source, whole(images, source))


def _logistic(setting: Setting, answer: Answer, free: bool, per_feature: bool) -> Predict:
    """Regresses on answers, of all training images if they are free, else of those that may be asked about.

    Answers of one unit (pixels, activations) share a divisor; log-probabilities have one each.
    """
    train, ask = (setting.data.splits["train"], setting.answers) if free else (setting.train, setting.asked)

    def features(examples: Examples) -> NDArray[np.float64]:
        found: NDArray[np.float64] = ask(examples, answer).double().numpy()
        return found

    classes = setting.data.spec.num_classes
    weight, bias, _ = fit_logistic(
        features(train), train.targets.numpy(), classes, per_feature=per_feature, weights=train.weights()
    )
    return lambda examples: softmax(torch.from_numpy(features(examples) @ weight.T + bias))
