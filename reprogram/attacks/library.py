"""The Adversarial Robustness Toolbox (ART), as far as it is used; it takes seconds to import."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reprogram.attacks.questions import Questions
from reprogram.attacks.victim import Victim
from reprogram.errors import ConfigError

Floats = NDArray[np.float32]


def part(name: str, attack: str) -> Any:
    """A module of ART, for an attack.

    Raises:
        ConfigError: If ART is missing.
    """
    logging.getLogger("art").setLevel(logging.WARNING)  # it tells success rates of its own
    try:
        return importlib.import_module(f"art.{name}")
    except ImportError as error:
        raise ConfigError(
            f"attack={attack}: needs the package adversarial-robustness-toolbox; pip install reprogram[attacks]"
        ) from error


def white_box(victim: Victim, images: Tensor, attack: str) -> Any:
    """A victim as ART sees one that shows its gradient, of the cross-entropy of its log-scores."""
    return part("estimators.classification", attack).PyTorchClassifier(
        victim,
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        victim.spec.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.is_cuda else "cpu",
    )


def black_box(questions: Questions, image: Tensor, attack: str) -> Any:
    """A victim as ART sees one that is asked: ART asks about an image again and again, which is paid for once."""
    known = {_key(image.cpu().numpy()): questions.clean.cpu().numpy()}

    def predict(arrays: Floats) -> Floats:
        keys = [_key(array) for array in arrays]
        new = list({key: row for row, key in enumerate(keys) if key not in known}.values())
        if new:
            asked = torch.from_numpy(arrays[new]).to(image)
            known.update(zip((keys[row] for row in new), questions(asked).cpu().numpy(), strict=True))
        return np.stack([known[key] for key in keys])

    return part("estimators.classification", attack).BlackBoxClassifierNeuralNetwork(
        predict, tuple(image.shape), questions.spec.num_classes, channels_first=True, clip_values=(0.0, 1.0)
    )


def _key(array: Floats) -> bytes:
    return blake2b(array.tobytes(), digest_size=16).digest()


def one_hot(labels: Tensor, classes: int) -> Floats:
    """Labels [B] as ART takes them: [B, K]."""
    rows: Floats = np.eye(classes, dtype=np.float32)[labels.cpu().numpy()]
    return rows


@contextmanager
def seeded(seed: int, key: int = 0) -> Iterator[None]:
    """ART draws from NumPy's global state: it is set for the block, and put back."""
    state = np.random.get_state()
    np.random.seed(np.random.SeedSequence((seed, key)).generate_state(1))
    try:
        yield
    finally:
        np.random.set_state(state)
