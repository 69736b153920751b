"""Classifies image files with a finished run."""

import csv
import glob
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

from reprogram.artefact import load
from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.pixels import IMAGE_SUFFIXES, files_below, read_image
from reprogram.errors import ConfigError, DataError

log = logging.getLogger(__name__)


def find_images(inputs: str | Sequence[str]) -> list[Path]:
    """Files, folders (searched through) and patterns as one list of image files, in order.

    Raises:
        DataError: If an input names nothing.
    """
    found: list[Path] = []
    for name in [inputs] if isinstance(inputs, str) else inputs:
        path = Path(name)
        if path.is_dir():
            files = [file for file in files_below(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(file) for file in glob.glob(name, recursive=True))
        if not files:
            raise DataError(f"input: found no image at '{name}'; expected a file, a folder of images, or a pattern")
        found += files
    return found


def predict(
    run: str | Path,
    inputs: str | Sequence[str],
    output: str | Path | None = None,
    batch_size: int = 64,
    skip_unreadable: bool = False,
    device: str = "cpu",
) -> int:
    """Writes one CSV row for each image: ``file, predicted, score_<class name>...``.

    Args:
        run: A finished run, or its ``program`` folder.
        inputs: See ``find_images``.
        output: CSV file; ``None``: standard output.
        batch_size: Images of a forward, >= 1.
        skip_unreadable: Whether damaged images are left out with a warning.
        device: ``cpu`` or ``cuda``.

    Returns:
        The number of images classified.

    Raises:
        DataError: If images are missing or damaged; all of them are counted, the first are named.
        ConfigError: If ``batch_size`` is below 1, or the output cannot be written.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected a whole number >= 1, got {batch_size}")
    paths = find_images(inputs)
    classifier = load(run, device=device)
    images, kept, damaged = [], [], []
    for path in paths:
        try:
            images.append(read_image(path, classifier.task.image_size))
            kept.append(path)
        except DataError as error:
            damaged.append(str(error))
    if damaged:
        message = f"{len(damaged)} of {len(paths)} images cannot be read: " + "; ".join(damaged[:5])
        if not skip_unreadable:
            raise DataError(f"{message}; repair or remove them, or set skip_unreadable=true")
        log.warning("left out: %s", message)
    if output is None:
        _write(sys.stdout, classifier, kept, images, batch_size, device)
    else:
        try:
            with Path(output).open("w", newline="", encoding="utf-8") as file:
                _write(file, classifier, kept, images, batch_size, device)
        except OSError as error:
            raise ConfigError(f"output: cannot write {output}: {error.strerror}") from error
    return len(kept)


def _write(
    file: TextIO,
    classifier: ReprogrammedClassifier,
    paths: Sequence[Path],
    images: Sequence[torch.Tensor],
    batch_size: int,
    device: str,
) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", "predicted", *(f"score_{name}" for name in classifier.class_names)])
    for start in range(0, len(paths), batch_size):
        with torch.inference_mode():
            probabilities = classifier(torch.stack(list(images[start : start + batch_size])).to(device)).cpu()
        decided = classifier.decide(probabilities).tolist()
        for path, index, row in zip(paths[start:], decided, probabilities.tolist(), strict=False):
            writer.writerow([path, classifier.class_names[index], *(f"{value:.6f}" for value in row)])
