"""What is served: a source, or a finished reprogrammed classifier, behind one call."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.types import TaskSpec


@dataclass(frozen=True)
class Facts:
    """What clients may know.

    Args:
        name: Of the model, as it stands in paths.
        class_names: K names in the order of the scores.
        image_size: Height and width (pixels).
        outputs: What scores are: ``log_probabilities`` of a source, ``probabilities`` of a classifier.
        version: Other weights, another version.
        resizes: Whether image files may be of any size.
        threshold: Lowest probability of the second of two classes at which it is chosen; ``None``: the likeliest is.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    outputs: str
    version: str
    resizes: bool = False
    threshold: float | None = None


class Answer(NamedTuple):
    """Of the images of one request.

    Shapes:
        scores: [n, K] float32, what ``Facts.outputs`` says.
        decided: [n] class index by the operating threshold; ``None`` from a source, which decides nothing.
    """

    scores: NDArray[np.float32]
    decided: NDArray[np.int64] | None


@dataclass(frozen=True)
class Model:
    """A model that was loaded.

    Args:
        facts: What clients may know.
        at_once: Most images of one forward.
        score: Float images [n, 3, h, w] in [0, 1] on the device -> scores [n, K] and, where there are any, decisions
            [n].
    """

    facts: Facts
    at_once: int
    score: Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Choice:
    """Which model is served: one of both.

    Args:
        source: Block of a source.
        run: Directory of a finished run, or its program folder.
        name: In paths; ``None``: that of the source, or of the task.
    """

    source: Mapping[str, Any] | None
    run: str | None
    name: str | None = None

    def load(self, device: str) -> Model:
        """Loads it onto ``cpu`` or ``cuda...``."""
        if self.run is not None:
            return _classifier(self.run, self.name, device)
        assert self.source is not None
        return _source(dict(self.source), self.name, device)


def _source(block: dict[str, Any], name: str | None, device: str) -> Model:
    from reprogram import sourcing

    _expect_own_classes(block, "source")
    nothing = TaskSpec("nothing", ("one", "other"), (1, 1))  # a source that is served is not yet for a task
    source = sourcing.source({"source": block}, torch.device(device).type, nothing).to(device)
    spec = source.spec
    version = source.fingerprint[:12]
    facts = Facts(in_path(name or spec.name), spec.class_names, spec.image_size, "log_probabilities", version)
    return Model(facts, source.at_once(), lambda images: (source(images), None))


def _classifier(run: str, name: str | None, device: str) -> Model:
    from reprogram.artefact import load

    classifier = load(run, device=device)
    task = classifier.task
    learned = hashlib.sha256(f"{classifier.source.fingerprint} {classifier.temperature}".encode())
    for part in (classifier.program, classifier.mapping):
        for key, value in sorted(part.state_dict().items()):
            if isinstance(value, Tensor):
                learned.update(key.encode() + value.cpu().contiguous().numpy().tobytes())

    def score(images: Tensor) -> tuple[Tensor, Tensor | None]:
        probabilities: Tensor = classifier(images)
        return probabilities, classifier.decide(probabilities)

    facts = Facts(
        in_path(name or task.name),
        task.class_names,
        task.image_size,
        "probabilities",
        learned.hexdigest()[:12],
        resizes=True,
        threshold=classifier.threshold,
    )
    return Model(facts, classifier.source.at_once(), score)


def in_path(name: str) -> str:
    """A name that can stand in a path as it is: of letters, digits, dots, hyphens and underscores."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-_") else "_" for letter in name)


def _expect_own_classes(block: Mapping[str, Any], key: str) -> None:
    """Refuses a source, or one within it, that would take its classes from a target task."""
    if block.get("class_names") == "target":
        raise ConfigError(f"{key}.class_names: expected imagenet or a list, since a server knows no target task")
    for name, value in block.items():
        if isinstance(value, Mapping):
            _expect_own_classes(value, f"{key}.{name}")
