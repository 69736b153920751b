"""From a YAML block with a ``_target_`` to a call, with every key and type checked before anything is built."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from reprogram.errors import ConfigError, ReprogramError


def call(block: Mapping[str, Any], key: str, **facts: Any) -> Any:
    """Calls the block's target with its values and with facts that no YAML may repeat.

    Args:
        block: ``_target_`` and the arguments chosen by the user (plain values; nested blocks are called first).
        key: Where the block stands in the config, for messages.
        facts: Arguments known to the code; left out where the target does not take them.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type; all of them in one message.
    """
    return bind(block, key, **facts)()


def bind(block: Mapping[str, Any], key: str, **facts: Any) -> Callable[..., Any]:
    """Like ``call``, but leaves the call, with possibly more positional arguments, to the caller."""
    target = locate(block, key)
    parameters = inspect.signature(target).parameters
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(target)
    problems, values = [], {}
    for name, value in block.items():
        place = f"{key}.{name}"
        if name == "_target_":
            continue
        if name not in parameters and not open_ended:
            near = get_close_matches(name, parameters, n=1)
            problems.append(f"{place}: no such key" + (f"; did you mean {key}.{near[0]}?" if near else ""))
        elif value == "???":
            problems.append(f"{place}: is required; set {place}=...")
        elif isinstance(value, Mapping) and "_target_" in value:
            values[name] = call(value, place)
        else:
            try:
                values[name] = _validated(value, hints.get(name, Any))
            except ValidationError as error:
                kind = hints[name]
                expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("collections.abc.", "")
                problems.append(f"{place}: expected {expected}, got {value!r} ({error.errors()[0]['msg']})")
    if problems:
        raise ConfigError("\n".join(problems))
    values |= {name: value for name, value in facts.items() if name in parameters}
    return partial(_call, target, key, values)


def _call(target: Callable[..., Any], key: str, values: Mapping[str, Any], *args: Any) -> Any:
    try:
        return target(*args, **values)
    except ReprogramError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error


def locate(block: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The block's target, imported.

    Raises:
        ConfigError: If there is none.
    """
    path = str(block.get("_target_"))
    module, _, name = path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_: cannot import '{path}' ({error})") from error
    return found


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(vars(target)["__init__"] if isinstance(target, type) else target)
    except (
        NameError,
        TypeError,
        KeyError,
    ):  # a third-party signature that cannot be resolved is checked by its own code
        return {}


def _validated(value: Any, hint: Any) -> Any:
    kinds = {hint, *typing.get_args(hint)}
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        value = str(value)  # which is no number, while pydantic takes true for 1
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except PydanticUserError:  # a hint that pydantic cannot check
        return value


def without(block: Mapping[str, Any], keys_of_others: Collection[str]) -> dict[str, Any]:
    """A block without the keys that are not its target's."""
    return {key: value for key, value in block.items() if key not in keys_of_others}
