"""Weights & Biases: curves while training; at the end pictures, the label map, and the program as an artifact."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprogram.errors import ConfigError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

MODES = ("online", "offline", "disabled")


def wandb_logger(choice: dict[str, Any], run_dir: Path, config: dict[str, Any]) -> "WandbLogger":
    """Opens a W&B run: online when a key is present, else offline, unless the config says which.

    The key itself is never read here: only whether one is there.

    Raises:
        ConfigError: If the mode has no such name.
    """
    from pytorch_lightning.loggers import WandbLogger

    mode = choice["mode"] or ("online" if _has_key() else "offline")
    if mode not in MODES:
        raise ConfigError(f"logger.wandb.mode: expected one of {', '.join(MODES)}, got '{mode}'")
    return WandbLogger(
        project=choice["project"],
        entity=choice["entity"],
        group=choice["group"],
        name=choice["name"] or run_dir.name,
        tags=choice["tags"],
        save_dir=str(run_dir),
        mode=mode,
        config=config,
        log_model=False,
    )


def record_results(
    logger: "WandbLogger",
    record: dict[str, Any],
    confusion: tuple[list[int], list[int], list[str]],
    label_map: list[tuple[str, str, float]],
    pictures: list[Path],
    program: Path,
) -> None:
    """Uploads the results of a finished run.

    Args:
        logger: Of the run.
        record: The contents of ``metrics.json``.
        confusion: Targets and decisions on the test split, and the class names.
        label_map: Rows (target class, source class, weight).
        pictures: Those that may leave this machine.
        program: Folder of the shareable program, uploaded as an artifact.
    """
    import wandb

    run = logger.experiment
    for split in ("val", "test"):
        run.summary.update({f"final/{split}/{name}": found["value"] for name, found in record[split].items()})
    run.summary.update({"best_epoch": record["best_epoch"], "queries": record["queries"]})
    targets, decisions, class_names = confusion
    run.log(
        {
            **{path.stem: wandb.Image(str(path)) for path in pictures},
            "confusion_matrix": wandb.plot.confusion_matrix(
                y_true=targets, preds=decisions, class_names=class_names, title="Test split"
            ),
            "label_map": wandb.Table(columns=["target", "source", "weight"], data=[list(row) for row in label_map]),
        }
    )
    artifact = wandb.Artifact(f"program-{run.id}", type="program", metadata={"task": record["task"]})
    artifact.add_dir(str(program))
    run.log_artifact(artifact)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")
