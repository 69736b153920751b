"""``reprogram-train``: one training run, or with ``-m`` a sweep of them."""

import logging
from pathlib import Path

from omegaconf import DictConfig, open_dict

from reprogram import preemption
from reprogram.commands.launch import importing, launch
from reprogram.commands.summary import finished_job
from reprogram.errors import ConfigError, RunFinished, RunPruned

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point."""
    preemption.listen()
    launch("train", _train)


def _train(cfg: DictConfig) -> dict[str, object] | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    with importing():
        from reprogram.evaluation.report import print_results
        from reprogram.runs import train

    job = HydraConfig.get()
    if cfg.resume is not None and len(job.overrides.task) > 1:
        extra = [override for override in job.overrides.task if not override.startswith("resume=")]
        raise ConfigError(f"resume continues a run with the configuration it was started with; drop {', '.join(extra)}")
    if job.mode == RunMode.MULTIRUN:
        done = finished_job(cfg, Path(job.runtime.output_dir))
        if done is not None:
            return done
        if str(cfg.trainer.devices) not in ("1", "auto"):
            raise ConfigError(
                "a sweep runs one process per job; use a trainer with one device, or start jobs one by one"
            )
        with open_dict(cfg):
            cfg.run_dir = job.runtime.output_dir
    try:
        result = train(cfg)
    except RunPruned as reason:
        log.info("pruned   %s", reason)
        return None
    except RunFinished as finished:  # a job that was started again has nothing to do
        log.info("finished %s", finished)
        return {"run_dir": str(cfg.resume or cfg.run_dir), **finished.metrics}
    if result is None:
        return None
    if job.mode != RunMode.MULTIRUN:
        print_results(result.metrics, result.pictures)
    return {"run_dir": str(result.run_dir), **result.metrics}


if __name__ == "__main__":
    main()
