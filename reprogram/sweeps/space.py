"""What a search may choose: a range or a list of values for each key of the configuration."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprogram.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = str | int | float | bool | None

_FIELDS = ("low", "high", "log", "step", "choices")
_OF_ALL = ("run_dir", "resume", "callbacks.monitor", "callbacks.mode")
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_SPECIAL = ("true", "false", "null", "nan", "inf")  # what Hydra would take for something else than a text


@dataclass(frozen=True)
class Parameter:
    """One key that a search chooses a value for.

    Args:
        key: Dotted key or group of the configuration of a run.
        choices: The values; ``None`` for a range.
        low: Least value of a range; whole if the range is of whole numbers.
        high: Largest value.
        log: Whether orders of magnitude count.
        step: Distance of the values; ``None``: any number, or any whole one.
    """

    key: str
    choices: tuple[Value, ...] | None = None
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the range is of whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    def distribution(self) -> "BaseDistribution":
        """As Optuna describes it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def values(self) -> tuple[Value, ...]:
        """All values, for a grid.

        Raises:
            ConfigError: If there is no end of them.
        """
        if self.choices is not None:
            return self.choices
        if self.log or (self.step is None and not self.is_whole):
            raise ConfigError(f"sweep.space.{self.key}: a grid needs choices, or low, high and step")
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + index * step for index in range(count))

    def extremes(self) -> tuple[Value, ...]:
        """The values that show whether a run can take all of them."""
        return (self.low, self.high) if self.choices is None else self.choices


def read_space(block: Mapping[str, Any]) -> list[Parameter]:
    """The parameters of ``sweep.space``.

    Args:
        block: ``{low, high}``, with ``log`` or ``step``, or ``{choices}`` for each key; keys may be nested, as in the
            configuration of a run, or dotted.

    Raises:
        ConfigError: With all that is wrong.
    """
    problems: list[str] = []
    found: dict[str, Parameter] = {}
    for key, spec in _leaves(block, ""):
        problem = _problem(spec) if key not in found else "is there twice"
        if key in _OF_ALL:
            problem = "is no choice of a search, which tells runs apart by folder and compares them by one metric"
        if problem:
            problems.append(f"sweep.space.{key}: {problem}")
        else:
            choices = spec.get("choices")
            found[key] = Parameter(key, **{**spec, "choices": None if choices is None else tuple(choices)})
    if problems:
        raise ConfigError("\n".join(problems))
    if not found:
        raise ConfigError(
            "sweep.space: expected at least one key; set '+sweep.space.optimizer.lr={low: 0.001, high: 1, log: true}', "
            "or choose sweep/space=white_box"
        )
    return list(found.values())


def grid(parameters: list[Parameter]) -> list[dict[str, Value]]:
    """Every combination of values, the last key changing fastest.

    Raises:
        ConfigError: If a range has no end of values.
    """
    rows = itertools.product(*(parameter.values() for parameter in parameters))
    return [dict(zip((parameter.key for parameter in parameters), row, strict=True)) for row in rows]


def override(key: str, value: Value) -> str:
    """As on a command line."""
    if isinstance(value, str):
        if not _PLAIN.fullmatch(value) or value.lower() in _SPECIAL:
            # within quotes Hydra takes a backslash for itself unless a quote follows
            value = "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + found[2].replace("'", r"\'"), value) + "'"
        return f"{key}={value}"
    return f"{key}={json.dumps(value)}"


def _leaves(block: object, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(block, Mapping):
        yield prefix.removesuffix("."), {"choices": block}  # shows as what it is in the message
        return
    fields = set(block) & set(_FIELDS)
    if fields and prefix:
        yield prefix.removesuffix("."), dict(block)
        return
    for key, value in block.items():
        yield from _leaves(value, f"{prefix}{key}.")


def _problem(spec: Mapping[str, Any]) -> str | None:
    """What is wrong with one key of the space."""
    unknown = [key for key in spec if key not in _FIELDS]
    if unknown:
        return f"expected {', '.join(_FIELDS[:-1])}, or choices, got {', '.join(map(str, unknown))}"
    if "choices" in spec:
        choices = spec["choices"]
        if len(spec) > 1:
            return "expected choices or a range, got both"
        if not isinstance(choices, list | tuple) or not choices:
            return f"expected {{low, high}} or {{choices: [...]}}, got {choices!r}"
        wrong = [value for value in choices if not isinstance(value, str | int | float | bool | None)]
        if wrong:
            return f"choices: expected texts, numbers, true, false or null, got {wrong[0]!r}"
        return "choices: expected each value once" if len(set(map(repr, choices))) < len(choices) else None
    for key in ("low", "high", *(["step"] if spec.get("step") is not None else [])):
        value = spec.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{key}: expected a number, got {value!r}" if key in spec else f"{key}: is required"
    if spec["low"] > spec["high"]:
        return f"expected low <= high, got {spec['low']} > {spec['high']}"
    if not isinstance(spec.get("log", False), bool):
        return f"log: expected true or false, got {spec['log']!r}"
    if spec.get("step") is not None and spec["step"] <= 0:
        return f"step: expected a number > 0, got {spec['step']}"
    if spec.get("log") and spec.get("step") is not None:
        return "expected log or step, got both"
    if spec.get("log") and spec["low"] <= 0:
        return f"low: expected a number > 0 with log, got {spec['low']}"
    return None
