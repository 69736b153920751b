"""Lightning's side of a run: where it runs, what it logs to, and its trainer."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import CSVLogger, Logger

from reprogram.errors import ConfigError
from reprogram.instantiation import call
from reprogram.training.checkpoint_files import CheckpointFiles
from reprogram.training.query_plan import QueryPlan

Config = dict[str, Any]


def loggers(cfg: Config, run_dir: Path) -> list[Logger]:
    """CSV and Weights & Biases, as configured."""
    found: list[Logger] = []
    if cfg["logger"]["csv"]:
        found.append(CSVLogger(run_dir, name="", version=""))
    if cfg["logger"]["wandb"] is not None:
        from reprogram.training.wandb_logging import wandb_logger

        found.append(wandb_logger(cfg["logger"]["wandb"], run_dir, cfg))
    return found


def trainer(
    cfg: Config,
    plan: QueryPlan | None,
    found_callbacks: list[pl.Callback],
    found_loggers: list[Logger],
    run_dir: Path,
) -> pl.Trainer:
    """The Lightning trainer: no sanity validation and no padding sampler, because both would cost queries."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its remarks on absent TPUs help nobody
    block, schedule = cfg["trainer"], {}
    if plan is not None and plan.interval is not None:  # the budget, not the epoch, is the measure
        block = {**block, "max_epochs": -1, "max_steps": plan.steps}
        schedule = {"val_check_interval": plan.interval, "check_val_every_n_epoch": None}
    try:
        made: pl.Trainer = call(
            block,
            "trainer",
            callbacks=found_callbacks,
            logger=found_loggers,
            default_root_dir=run_dir,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            plugins=[CheckpointFiles()],
            log_every_n_steps=1,
            **schedule,
        )
    except (MisconfigurationException, RuntimeError) as error:  # the latter of what a batch script asks SLURM for
        raise ConfigError(f"trainer: {error}") from error
    # its answer to SIGTERM is a collective operation in the middle of others; ours is `reprogram.preemption`
    made._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return made
