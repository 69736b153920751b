"""``reprogram-evaluate``: scores a finished run again."""

from omegaconf import DictConfig

from reprogram.commands.launch import launch, refuse_missing


def main() -> None:
    """Entry point."""
    launch("evaluate", _evaluate)


def _evaluate(cfg: DictConfig) -> None:
    refuse_missing(cfg, "run")
    from reprogram.evaluation.report import print_metrics
    from reprogram.rescoring import evaluate

    result = evaluate(cfg)
    print_metrics(f"{result['task']}, {result['split']} split [95 % interval]", result["metrics"])
    recorded = result["recorded"]
    if recorded is not None:
        same = all(recorded[name]["value"] == found["value"] for name, found in result["metrics"].items())
        print(
            "the same numbers as recorded" if same else "NOT the numbers recorded; has the data or the source changed?"
        )
    print(f"records  {result['output']}")


if __name__ == "__main__":
    main()
