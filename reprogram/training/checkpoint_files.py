"""Checkpoint files that are whole or not there: a full disk costs the new one, never the one before."""

import errno
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from reprogram.errors import RunError


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to its checkpoints; ``write_checkpoint`` says what is different."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint; called by the first process alone."""
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes beside the file, flushes to the disk, reads back, and only then takes the file's place.

    Raises:
        RunError: If the disk does not hold it; the file is as it was before.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if draft.read_bytes() != buffer.getbuffer():
            raise OSError(errno.EIO, "the disk gives back something else than was written")
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise RunError(
            f"{path}: cannot write a checkpoint ({error.strerror}); the one before is kept: see to disk space and "
            "permissions, and the same command continues"
        ) from error
