"""``reprogram-attack``: how easily a finished run is fooled."""

from omegaconf import DictConfig

from reprogram.commands.launch import importing, launch, refuse_missing


def main() -> None:
    """Entry point."""
    launch("attack", _attack)


def _attack(cfg: DictConfig) -> None:
    refuse_missing(cfg, "run")
    with importing():
        from reprogram.attacks.report import print_outcome
        from reprogram.attacks.robustness import attack

    print_outcome(attack(cfg))


if __name__ == "__main__":
    main()
