"""A CLIP that takes milliseconds, for tests with random weights."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
CONFIG: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}


def save_clip(model: nn.Module, folder: Path) -> tuple[str, str]:
    """What a user would have of a model of ``CONFIG``: its configuration and its weights."""
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), folder / "tiny.safetensors")
    return str(folder / "tiny.json"), str(folder / "tiny.safetensors")
