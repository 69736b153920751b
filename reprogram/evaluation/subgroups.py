"""Metrics of the examples that share a site, a sex, a band of ages, or whatever else is known of them."""

import logging
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from reprogram.errors import ConfigError
from reprogram.evaluation.intervals import with_intervals
from reprogram.evaluation.predictions import Predictions

log = logging.getLogger(__name__)

_UNKNOWN = "unknown"
_MOST_VALUES = 30  # more are names or measurements, not subgroups


def subgroups(
    predictions: Predictions,
    bands: Mapping[str, Sequence[float]],
    ordinal: bool,
    num_resamples: int,
    seed: int,
    threshold: float | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Metrics of ``with_intervals`` on the examples of each value of each attribute.

    Values are in alphabetical order, bands in ascending order, ``unknown`` is last. An attribute of more than 30
    values and without bands is left out with a logged warning.

    Args:
        predictions: Of one split, with attributes.
        bands: Ascending edges of numeric attributes by name: ``[12, 18]`` makes the bands ``<12``, ``12-18`` (12
            included, 18 not) and ``>=18``. What is no number there is unknown. Names without an attribute are ignored.
        ordinal: Whether the order of the classes means something.
        num_resamples: Of the bootstrap; the groups or rows of a subgroup are resampled among themselves.
        seed: Seed of the resamples.
        threshold: Decides two classes by the score of class 1; ``None`` decides for the most probable class.

    Returns:
        By attribute and value: ``n``, the number of examples, and ``metrics``.

    Raises:
        ConfigError: If edges are not ascending.
    """
    found = {}
    for attribute, texts in predictions.attributes.items():
        if attribute in bands:
            known, values = _banded(attribute, texts, bands[attribute])
        else:
            values = [text or _UNKNOWN for text in texts]
            known = sorted(set(values) - {_UNKNOWN})
            if len(known) > _MOST_VALUES:
                log.warning(
                    "%s is no subgroup: it has %d values, at most %d are reported; give it bands if it is a number",
                    *(attribute, len(known), _MOST_VALUES),
                )
                continue
        rows_of: dict[str, list[int]] = {value: [] for value in [*known, _UNKNOWN]}
        for row, value in enumerate(values):
            rows_of[value].append(row)
        found[attribute] = {
            value: {
                "n": len(rows),
                "metrics": with_intervals(predictions.subset(rows), ordinal, num_resamples, seed, threshold=threshold),
            }
            for value, rows in rows_of.items()
            if rows
        }
    return found


def _banded(attribute: str, texts: Sequence[str], edges: Sequence[float]) -> tuple[list[str], list[str]]:
    """Names of all bands, ascending, and that of each text."""
    if not edges or list(edges) != sorted(set(edges)):
        raise ConfigError(f"bands of {attribute}: expected ascending edges, got {list(edges)}")
    names = [f"<{edges[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(edges)), f">={edges[-1]:g}"]
    numbers = map(_number, texts)
    return names, [_UNKNOWN if math.isnan(number) else names[bisect_right(edges, number)] for number in numbers]


def _number(text: str) -> float:
    """NaN where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
