"""From a table to a task: split by a protocol, cut to size, and refused where two splits share an image."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from reprogram.data.base import SPLITS, Examples, Images, Rows, Table, TaskData
from reprogram.data.labelled import labelled
from reprogram.data.labels import first_ids
from reprogram.data.protocols import FixedSplit, Protocol, Selection
from reprogram.errors import DataError
from reprogram.types import TaskSpec

log = logging.getLogger(__name__)


def load_task(
    table: Table,
    protocol: Protocol | None = None,
    selection: Selection | None = None,
    labels: str | Path | None = None,
) -> TaskData:
    """Reads and checks the images of each split.

    Args:
        table: The rows.
        protocol: Who is trained on and tested; ``None``: the split of the data, completed.
        selection: How much of it; ``None``: everything, without an image in two splits.
        labels: A file that lists the training rows which are labelled; see ``labelled``. ``None``: all are.

    Raises:
        DataError: If images cannot be read, a group or an image is in two splits, or a class has no training example,
            or a row no label (with ``labels`` both are allowed in ``train``).
    """
    protocol, selection = protocol or FixedSplit(), selection or Selection()
    spec, splits = chosen_splits(table, protocol, selection, labelled=labels is None)
    if labels is not None:
        splits = {**splits, "train": labelled(splits["train"], labels, table.class_names)}
    return TaskData(spec, splits, complete=labels is None)


def chosen_splits(
    table: Table, protocol: Protocol, selection: Selection, labelled: bool
) -> tuple[TaskSpec, dict[str, Examples]]:
    """The task's facts, and its splits before anything says which training rows are labelled.

    Args:
        table: The rows.
        protocol: Who is trained on and tested.
        selection: How much of it.
        labelled: Whether every training row must have a label; else the target of one that has none is 0 here.

    Raises:
        DataError: If images cannot be read, an image is in two splits, or a row lacks a label that it must have.
    """
    rows = selection.choose(table, protocol.rows(table))
    for name, part in rows.items():
        if labelled or name != "train":
            _refuse_unlabelled(table, part, name)
    splits = _examples(table, rows)
    if not table.repeats and selection.duplicates != "keep":
        splits = _without_shared_images(table, splits, drop=selection.duplicates == "drop")
    height, width = splits["train"].images.shape[2:]
    spec = TaskSpec(
        name=table.name,
        class_names=table.class_names,
        image_size=(height, width),
        support=table.support,
        ordinal=table.ordinal,
        private=table.private,
        licence=table.licence,
        citation=table.citation,
    )
    return spec, splits


def load_split(table: Table, split: str) -> Examples:
    """Reads one split of data that nothing is trained on: all rows, where they are not split.

    Raises:
        DataError: If images cannot be read, there is no such split, a row is not labelled, or images are drawn relative
            to training rows.
    """
    rows = np.arange(len(table.ids))
    if table.split is not None:
        rows = np.flatnonzero(np.asarray(table.split, dtype=str) == split)
        if not len(rows):
            raise DataError(f"{table.origin or table.name}: expected rows of '{split}', got {sorted(set(table.split))}")
    _refuse_unlabelled(table, rows, split)
    return _examples(table, {split: rows})[split]


def _examples(table: Table, rows: Mapping[str, Rows]) -> dict[str, Examples]:
    return {
        name: Examples(
            images=images,
            targets=torch.from_numpy(table.targets[kept].clip(min=0)),
            ids=tuple(table.ids[row] for row in kept),
            groups=None if table.groups is None else tuple(table.groups[row] for row in kept),
            attributes={key: tuple(values[row] for row in kept) for key, values in table.attributes.items()},
        )
        for name, (images, kept) in table.read(rows).items()
    }


def _refuse_unlabelled(table: Table, rows: Rows, split: str) -> None:
    unknown = rows[table.targets[rows] < 0].tolist()
    if unknown:
        remedies = (
            "leave them out"
            if split != "train"
            else (
                "list those that are in protocol.labels=FILE, have them labelled by reprogram-active, or leave them out"
            )
        )
        raise DataError(
            f"{table.origin or table.name}: expected a label for each of the {len(rows)} rows of '{split}', got none "
            f"for {first_ids(unknown, table.ids)}; {remedies}"
        )


def _without_shared_images(table: Table, splits: dict[str, Examples], drop: bool) -> dict[str, Examples]:
    """Refuses images that are in two splits, or drops them from the earlier one: test stays as it is."""
    key_of = dict(zip(table.ids, table.keys or (), strict=False))
    digests = {
        name: [key_of[row] for row in examples.ids] if key_of else _digests(examples.images)
        for name, examples in splits.items()
    }
    kept = dict(splits)
    for position, name in enumerate(SPLITS):
        later: dict[bytes, str] = {}
        for other in SPLITS[position + 1 :]:
            later |= dict(zip(digests[other], splits[other].ids, strict=True))
        shared = [row for row, digest in enumerate(digests[name]) if digest in later]
        if not shared:
            continue
        pairs = [f"{splits[name].ids[row]} = {later[digests[name][row]]}" for row in shared[:5]]
        message = (
            f"{table.origin or table.name}: {len(shared)} images of '{name}' are also in a later split: "
            + ", ".join(pairs)
        )
        if not drop:
            raise DataError(
                f"{message}; set protocol.duplicates=drop to leave them out of '{name}', or =keep to go on as it is"
            )
        log.warning("%s; left out of '%s'", message, name)
        left = set(shared)
        kept[name] = splits[name].subset([row for row in range(len(splits[name])) if row not in left])
    return kept


def _digests(images: Images) -> list[bytes]:
    """A hash of the pixels of each image; a thousand at a time, so that a mapped file need not fit in memory."""
    found = []
    for start in range(0, len(images), 1000):
        for image in images[start : start + 1000].numpy():
            found.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    return found
