"""What a reprogrammed classifier must be seen beside: the same data, without a learned program."""

import copy
import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import BatchLoader, to_float
from reprogram.errors import ConfigError, QueryBudgetExceeded
from reprogram.evaluation.predictions import Predictions
from reprogram.mappings.logistic import fit_logistic

log = logging.getLogger(__name__)

Scores = NDArray[np.float64]


class Baselines:
    """Computes baselines on one task; scored splits are fitted on training images alone.

    - ``majority``: the class frequencies of the training split, for every example.
    - ``mapping_only``: the untrained program and the configured mapping, fitted once where it can be fitted.
    - ``linear_probe``: cross-validated logistic regression on the source's log-probabilities of the plain target image,
      resized to the whole canvas.

    Args:
        classifier: Untrained; its program and mapping are those that training would start from.
        data: The target task.
        train: Training images that the mapping and the probe are fitted on.
        batch_size: Examples of a forward.
        device: Where the classifier is.
    """

    def __init__(
        self,
        classifier: ReprogrammedClassifier,
        data: TaskData,
        train: Examples,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.classifier, self.data, self.train = classifier, data, train
        self.batch_size, self.device = batch_size, device
        self.queries = 0

    @staticmethod
    def check(names: Sequence[str]) -> None:
        """Refuses unknown names.

        Raises:
            ConfigError: If there is no such baseline.
        """
        unknown = [name for name in names if name not in ("majority", "mapping_only", "linear_probe")]
        if unknown:
            raise ConfigError(f"evaluation.baselines: expected majority, mapping_only, linear_probe, got {unknown}")

    def compute_all(self, names: Sequence[str]) -> dict[str, dict[str, Predictions]]:
        """Each of them, as far as the budget of a run that was cut off still pays for it."""
        found = {}
        for name in names:
            try:
                found[name] = self.compute(name)
            except QueryBudgetExceeded as error:
                log.warning("baseline %s is left out: %s", name, error)
        return found

    def compute(self, name: str) -> dict[str, Predictions]:
        """Predictions of one baseline on ``val`` and ``test``."""
        self.check([name])
        score = {"majority": self._majority, "mapping_only": self._mapping_only, "linear_probe": self._linear_probe}
        with self.classifier.source.asked_for("baseline"):
            return self._scored(score[name](self.train))

    def _scored(self, predict: Callable[[Examples], Scores]) -> dict[str, Predictions]:
        return {
            split: Predictions(split, examples.ids, examples.targets.numpy(), predict(examples), examples.groups)
            for split, examples in self.data.splits.items()
            if split != "train"
        }

    def _majority(self, train: Examples) -> Callable[[Examples], Scores]:
        del train  # labels cost no query: all of them count
        targets = self.data.splits["train"].targets
        counts = np.bincount(targets.numpy(), minlength=self.data.spec.num_classes)
        return lambda examples: np.tile(counts / counts.sum(), (len(examples), 1))

    def _mapping_only(self, train: Examples) -> Callable[[Examples], Scores]:
        mapping = copy.deepcopy(self.classifier.mapping).cpu()
        compose = self.classifier.compose
        if not mapping.schedule.fixed:
            mapping.observe(self._log_probs(train, compose), train.targets)
            mapping.refit()

        @torch.inference_mode()
        def predict(examples: Examples) -> Scores:
            return _softmax(mapping(self._log_probs(examples, compose)))

        return predict

    def _linear_probe(self, train: Examples) -> Callable[[Examples], Scores]:
        canvas = self.classifier.source.spec.image_size

        def whole(images: Tensor) -> Tensor:
            return interpolate(images, canvas, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

        features = self._log_probs(train, whole).double().numpy()
        weight, bias, _ = fit_logistic(features, train.targets.numpy(), self.data.spec.num_classes)

        def predict(examples: Examples) -> Scores:
            scores = self._log_probs(examples, whole).double().numpy() @ weight.T + bias
            return _softmax(torch.from_numpy(scores))

        return predict

    @torch.inference_mode()
    def _log_probs(self, examples: Examples, compose: Callable[[Tensor], Tensor]) -> Tensor:
        loader = BatchLoader(examples, self.batch_size, shuffle=False, seed=0)
        self.queries += len(examples)
        return torch.cat([self.classifier.source(compose(to_float(b.images.to(self.device)))).cpu() for b in loader])


def _softmax(scores: Tensor) -> Scores:
    probabilities: Scores = scores.double().softmax(dim=1).numpy()
    return probabilities
