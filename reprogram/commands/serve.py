"""``reprogram-serve``: puts a source, or a finished run, behind a scoring API over HTTP."""

from collections.abc import Mapping

from omegaconf import DictConfig

from reprogram.commands.launch import importing, launch
from reprogram.errors import ConfigError

NUMBERS = ("port", "max_batch_size", "batch_timeout", "timeout", "max_megabytes")
TEXTS = ("key_env", "charges")


def main() -> None:
    """Entry point."""
    launch("serve", _serve)


def _serve(cfg: DictConfig) -> None:
    with importing():
        from reprogram.build import plain
        from reprogram.instantiation import call
        from reprogram.sourcing import device_type

    choice = plain(cfg)
    source, run = choice.get("source"), choice["run"]
    if (source is None) == (run is None):
        raise ConfigError("expected one of source and run: source=NAME for a classifier, or run=DIR for a finished run")
    for key, block in (("source", source if run is None else {}), ("faults", choice["faults"])):
        if not isinstance(block, Mapping):
            raise ConfigError(f"{key}: expected a block of keys, got {block!r}")
    try:
        from reprogram.serving.model import Choice
        from reprogram.serving.server import serve
    except ImportError as error:
        raise ConfigError(f"serving: {error}; install it with pip install 'reprogram[serve]'") from error

    run, name, key_env, charges = (
        None if value is None else str(value) for value in (run, *(choice[key] for key in ("name", *TEXTS)))
    )
    serve(
        Choice(source, run, name),
        call(choice["faults"], "faults"),
        str(choice["host"]),
        **{key: choice[key] for key in NUMBERS},
        key_env=key_env,
        charges=charges,
        device_type=device_type(choice["accelerator"]),
    )


if __name__ == "__main__":
    main()
