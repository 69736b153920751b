"""Checks a whole configuration without making anything."""

from typing import Any

from reprogram.build import ACCESS_KEYS, DATA_KEYS, PROTOCOL_KEYS
from reprogram.checks import check
from reprogram.instantiation import bind, without
from reprogram.sourcing import SOURCE_KEYS

_NOT_OF_THE_TARGET = {  # keys that others read
    "source": SOURCE_KEYS,
    "access": ACCESS_KEYS,
    "data": DATA_KEYS,
    "protocol": PROTOCOL_KEYS,
    "optimizer": ("mapping_lr",),
}


def check_blocks(cfg: dict[str, Any]) -> None:
    """Refuses unknown keys and values of wrong types in every block that will be called.

    Raises:
        ConfigError: With all that is wrong in a block.
    """
    check(cfg)
    for group, block in cfg.items():
        if isinstance(block, dict) and block.get("_target_") is not None:
            bind(without(block, _NOT_OF_THE_TARGET.get(group, ())), group)
