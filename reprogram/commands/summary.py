"""One table at the end of a sweep."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
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
        failed = job_return.status != JobStatus.COMPLETED or job_return._return_value is None
        found = None if failed else job_return.return_value
        metric = str(config.callbacks.monitor).removeprefix("val/")
        self.rows.append(
            {
                "overrides": " ".join(job_return.overrides or []),
                "metric": metric,
                "val": found["val"].get(metric) if found else None,
                "test": found["test"].get(metric) if found else None,
                "run_dir": str(found["run_dir"]) if found else f"failed: {job_return._return_value}",
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
