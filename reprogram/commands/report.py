"""``reprogram-report``: one page from many runs, or two runs compared."""

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from reprogram.commands.launch import importing, launch
from reprogram.errors import ConfigError


def main() -> None:
    """Entry point."""
    launch("report", _report)


def _report(cfg: DictConfig) -> None:
    with importing():
        from reprogram.build import plain

    choice = plain(cfg)
    if (choice["runs"] is None) == (choice["compare"] is None):
        raise ConfigError("expected one of runs and compare: runs='runs/sweep_x/*', or compare=[A,B]")
    if not isinstance(choice["num_resamples"], int) or isinstance(choice["num_resamples"], bool):
        raise ConfigError(f"num_resamples: expected a whole number, got {choice['num_resamples']}")
    if choice["output"] is not None and not isinstance(choice["output"], str):
        raise ConfigError(f"output: expected a folder or null, got {choice['output']}")
    if choice["compare"] is not None:
        _compare(choice["compare"], choice["output"], choice["num_resamples"])
        return
    from reprogram.reports.page import report

    for line in report(choice["runs"], choice["output"] or "report", choice["num_resamples"]):
        print(line)


def _compare(sides: object, output: str | None, num_resamples: int) -> None:
    from reprogram.evaluation.report import print_comparison
    from reprogram.reports.comparison import compare
    from reprogram.reports.page import write

    if not isinstance(sides, list) or len(sides) != 2:
        raise ConfigError(f"compare: expected two runs or patterns, compare=[A,B], got {sides}")
    a, b = sides
    found = compare(a, b, num_resamples)
    print_comparison(found.headings, found.examples, found.sides, found.differences)
    if output is not None:
        path = write(Path(output) / "compare.json", json.dumps(asdict(found), indent=2) + "\n")
        print(f"records  {path}")


if __name__ == "__main__":
    main()
