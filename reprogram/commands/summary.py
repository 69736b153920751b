"""The jobs of a multirun: what became of each is kept in its folder, and shown in one summary at the end."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

RECORD = "job_{}.json"  # named by the configuration asked for

failed_jobs: list[int] = []
"""Of the last multirun, for the exit code: its jobs may have run in other processes."""


class SweepSummary(Callback):
    """Shows the jobs of a multirun; they are read from its folder, whichever launcher ran them, and when."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Takes note of one job, failed or not; this runs where the job did."""
        if config.hydra.mode != RunMode.MULTIRUN or job_return.return_value is None:  # a dry run has no result
            return
        assert job_return.cfg is not None
        found: dict[str, Any] = job_return.return_value
        metric = str(job_return.cfg.callbacks.monitor).removeprefix("val/")
        record = {
            "job": config.hydra.job.num,
            "overrides": list(job_return.overrides or []),
            "metric": metric,
            "mode": job_return.cfg.callbacks.mode,
            "score": found.get("val", {}).get(metric, {}).get("value"),
            "test": found.get("test", {}).get(metric),
            "queries": found["queries"]["total"] if found.get("access") == "black_box" else None,
            "seconds": found.get("timing", {}).get("total_s"),
            "run_dir": found.get("run_dir", ""),
            "note": found.get("failed", ""),
        }
        folder = Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)
        folder.mkdir(parents=True, exist_ok=True)
        for path, other in _records(folder).items():
            if other["note"]:  # it has been put right, or is put in its place
                path.unlink()
        path = folder / RECORD.format(_asked(job_return.cfg))
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints and writes the summary."""
        from reprogram.sweeps.rows import Row, State
        from reprogram.sweeps.space import Value
        from reprogram.sweeps.summary import summarise

        folder = Path(config.hydra.sweep.dir)
        records = list(_records(folder, "**/").values())
        if not records:
            return
        options = [dict(override.partition("=")[::2] for override in record["overrides"]) for record in records]
        keys = dict.fromkeys(key for chosen in options for key in chosen)
        varied = [key for key in keys if len({chosen.get(key) for chosen in options}) > 1] or list(keys)
        rows = []
        for record, chosen in zip(records, options, strict=True):
            values: dict[str, Value] = {key: _value(chosen[key]) for key in varied if key in chosen}
            overrides = tuple(record.pop("overrides"))
            state: State = "failed" if record["note"] else "finished"
            rows.append(Row(**record, overrides=overrides, values=values, state=state))
        summarise(sorted(rows, key=lambda row: row.job), folder)
        failed_jobs[:] = [row.job for row in rows if row.state == "failed"]
        if failed_jobs:
            print(f"again    hydra.sweep.dir={folder} on the same line does what failed, and only that")


def finished_job(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """What a job of a multirun came to when it was run before, in the same folder with the same configuration."""
    record = _records(folder).get(folder / RECORD.format(_asked(cfg)))
    if record is None or record["note"] or not (folder / "metrics.json").is_file():
        return None
    print(f"finished before: {folder}")
    return {"run_dir": record["run_dir"], **json.loads((folder / "metrics.json").read_text(encoding="utf-8"))}


def _records(folder: Path, below: str = "") -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(below + RECORD.format("*"))}


def _asked(cfg: DictConfig) -> str:
    """Tells configurations apart as they were asked for, wherever they run."""
    values: Any = OmegaConf.to_container(cfg, resolve=False)
    return hashlib.sha256(json.dumps({**values, "run_dir": None}, sort_keys=True).encode()).hexdigest()[:12]


def _value(text: str) -> str | int | float:
    """A number where the text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
