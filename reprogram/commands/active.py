"""``reprogram-active``: chooses what is worth a label, round by round."""

from omegaconf import DictConfig

from reprogram import preemption
from reprogram.commands.launch import importing, launch


def main() -> None:
    """Entry point."""
    preemption.listen()
    launch("active", _active)


def _active(cfg: DictConfig) -> None:
    with importing():
        from reprogram.active.active_learning import learn
        from reprogram.active.curve import lines
        from reprogram.evaluation.report import print_metrics
        from reprogram.records import RunDirectory

    outcome = learn(cfg)
    if outcome is None:
        return
    for line in lines(outcome.records):
        print(line)
    if outcome.waiting is not None:
        print(f"waiting  {outcome.waiting}")
    if outcome.run is not None:
        found = RunDirectory(outcome.run).read_metrics()
        print_metrics(f"{found['task']}, test split, by all labels [95 % interval]", found["test"])
        print(f"run      {outcome.run}")
    print(f"records  {outcome.folder}")


if __name__ == "__main__":
    main()
