"""``reprogram-predict``: classifies images with a finished run."""

import sys

from omegaconf import DictConfig

from reprogram.commands.launch import importing, launch, refuse_missing


def main() -> None:
    """Entry point."""
    launch("predict", _predict)


def _predict(cfg: DictConfig) -> None:
    refuse_missing(cfg, "run", "input")
    with importing():
        from reprogram.build import plain
        from reprogram.prediction import predict
        from reprogram.sourcing import device_type

    choice = plain(cfg)
    inputs = choice["input"] if isinstance(choice["input"], list) else str(choice["input"])
    count = predict(
        choice["run"],
        inputs,
        choice["output"],
        choice["batch_size"],
        choice["skip_unreadable"],
        device_type(choice["accelerator"]),
    )
    if choice["output"] is not None:
        print(f"{count} images classified: {choice['output']}", file=sys.stderr)


if __name__ == "__main__":
    main()
