"""``reprogram-evaluate``: scores a finished run again."""

from omegaconf import DictConfig

from reprogram.commands.launch import importing, launch, refuse_missing

TOLERANCE = 1e-6  # a temperature divides log-scores here, and in the run probabilities that were scored before it


def main() -> None:
    """Entry point."""
    launch("evaluate", _evaluate)


def _evaluate(cfg: DictConfig) -> None:
    refuse_missing(cfg, "run")
    with importing():
        from reprogram.evaluation.report import print_metrics
        from reprogram.rescoring import evaluate

    result = evaluate(cfg)
    print_metrics(f"{result['task']}, {result['split']} split [95 % interval]", result["metrics"])
    recorded = result["recorded"]
    if recorded is not None:
        pairs = [(recorded[name]["value"], found["value"]) for name, found in result["metrics"].items()]
        same = all(one == two or (None not in (one, two) and abs(one - two) < TOLERANCE) for one, two in pairs)
        print(
            "the same numbers as recorded" if same else "NOT the numbers recorded; has the data or the source changed?"
        )
    print(f"records  {result['output']}")


if __name__ == "__main__":
    main()
