"""One table at the end of a sweep."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

if TYPE_CHECKING:
    from reprogram.evaluation.report import SweepRow

log = logging.getLogger(__name__)


class SweepSummary(Callback):
    """Collects the jobs of a multirun; prints one table and writes it as ``summary.md`` into the sweep's folder."""

    def __init__(self) -> None:
        self.rows: list[SweepRow] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Takes note of one job, failed or not."""
        found: dict[str, Any] = job_return.return_value or {"failed": "no result"}
        metric = str(config.callbacks.monitor).removeprefix("val/")
        self.rows.append(
            {
                "overrides": " ".join(job_return.overrides or []),
                "metric": metric,
                "val": found.get("val", {}).get(metric),
                "test": found.get("test", {}).get(metric),
                "run_dir": found.get("run_dir") or f"failed: {found['failed']}",
            }
        )

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints and writes the table."""
        from reprogram.evaluation.report import print_sweep, sweep_markdown

        print_sweep(self.rows)
        path = Path(config.hydra.sweep.dir) / "summary.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sweep_markdown(self.rows), encoding="utf-8")
        log.info("summary  %s", path)
