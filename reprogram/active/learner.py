"""What learns from the labels of a round, and says how sure it is of the rest of the pool."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogram import build, sourcing
from reprogram.active.plan import Queries
from reprogram.active.round_files import Round
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader, to_float
from reprogram.data.pool import Pool
from reprogram.sources.base import SourceModel
from reprogram.sources.features import penultimate

Floats = NDArray[np.float64]


class Learner(ABC):
    """Fits a classifier to the labels of a round.

    Args:
        cfg: Configuration of the runs.
        pool: What can be labelled.
    """

    def __init__(self, cfg: build.Config, pool: Pool) -> None:
        self.cfg, self.pool = cfg, pool
        self.device = torch.device(sourcing.device_type(cfg["trainer"]["accelerator"]))
        self._scored: tuple[int, Floats] | None = None  # round, and what was found of the pool
        self._features: dict[str, Floats] = {}

    @abstractmethod
    def accessed(self, source: SourceModel) -> SourceModel:
        """The source as far as it may be seen."""

    @abstractmethod
    def learn(self, this: Round, before: Round | None) -> dict[str, Any]:
        """Learns from the labels of a round; goes on with what an earlier process has begun.

        Returns:
            ``val`` metrics with intervals, ``test`` likewise or ``None`` where test is kept for the end, and
            ``queries`` so far, ``None`` in a white box.
        """

    @abstractmethod
    def score(self, this: Round) -> Floats:
        """Class probabilities [N, K_t] of the pool by what was learned in a round."""

    @abstractmethod
    def finish(self, this: Round) -> Path:
        """Ends with the labels of the last round; returns the directory of the finished run."""

    @abstractmethod
    def open(self) -> None:
        """Reserves what the rounds will ask; called once before them."""

    def queries(self, labels: int) -> Queries | None:
        """What a black box will be asked for so many labels, those passed on included; ``None`` in a white box."""
        del labels
        return None

    def probabilities(self, this: Round) -> Floats:
        """``score``, once a round."""
        if self._scored is None or self._scored[0] != this.number:
            self._scored = this.number, self.score(this)
        return self._scored[1]

    def features(self, kind: str) -> Floats:
        """What the source says of the pool before anything is learned, [N, F]: ``log_probs`` or ``features``."""
        if kind not in self._features:
            model = self.untrained()
            seen = model.source if kind == "log_probs" else lambda canvases: penultimate(model.source, canvases)
            self._features[kind] = self.ask(self.pool.examples, model, seen, "mapping").double().numpy()
        return self._features[kind]

    def untrained(self) -> ReprogrammedClassifier:
        """Program and mapping as training starts with them."""
        source = self.accessed(sourcing.source(self.cfg, self.device.type, self.pool.spec))
        return build.classifier(self.cfg, source, self.pool.spec, self.device.type).to(self.device).eval()

    @torch.inference_mode()
    def ask(
        self, examples: Examples, classifier: ReprogrammedClassifier, seen: Callable[[Tensor], Tensor], purpose: str
    ) -> Tensor:
        """Answers [N, ...], on the CPU, to the canvases of examples."""
        loader = BatchLoader(examples, self.cfg["data"]["batch_size"], shuffle=False, seed=0, device=self.device)
        with classifier.source.asked_for(purpose):
            return torch.cat([seen(classifier.compose(to_float(batch.images))).cpu() for batch in loader])

    def run_config(self, directory: Path, labels: Path, **others: Any) -> build.Config:
        """The configuration of a run that knows the labels of a file alone."""
        protocol = {**self.cfg["protocol"], "labels": str(labels)}
        return {**self.cfg, "run_dir": str(directory), "protocol": protocol, **others}
