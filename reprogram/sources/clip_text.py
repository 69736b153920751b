"""CLIP by name, and what its text tower says of class names."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError, SourceError
from reprogram.sources.local_weights import load_local_weights
from reprogram.sources.timm import hub_cache

log = logging.getLogger(__name__)

HUB = "hf-hub:"  # open_clip's mark of a model that is named by its hub repository
HUB_WEIGHTS = "pretrained"
CONFIG_FILE = "open_clip_config.json"  # as in a hub repository
TEXTS_AT_ONCE = 64
GRID = 2.0**22


@dataclass(frozen=True, eq=False)
class Clip:
    """A model with an image and a text tower, taken apart.

    Args:
        visual: Normalised images [B, 3, H, W] -> features [B, F]; float32.
        encode_text: Tokens [N, L] -> features [N, F]; float64, so that rounded features are the same on every machine.
        tokenizer: N texts -> tokens [N, L].
        logit_scale: Logarithm of what multiplies a cosine; float64.
        mean: Of the pixels in [0, 1] that the image tower was trained with.
        std: Likewise.
    """

    visual: nn.Module
    encode_text: Callable[[Tensor], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    logit_scale: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_clip(name: str, weights: str, key: str = "source") -> Clip:
    """Loads a model of open_clip.

    Args:
        name: Name in open_clip's list, such as ``ViT-B-32``; ``hf-hub:OWNER/REPOSITORY``; or a JSON file: the
            ``open_clip_config.json`` of a hub repository or a model configuration of one's own.
        weights: A published tag such as ``openai`` (downloaded once by open_clip; of a hub repository ``pretrained``),
            or a local state dict of the whole model.
        key: Where name and weights stand in the config, for messages.

    Raises:
        ConfigError: If open_clip is not installed, does not know the name or the tag, or cannot build the model.
        SourceError: If weights or tokenizer are neither cached nor downloadable, or the weights do not fit.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{key}: expected the package open_clip; install it with pip install 'reprogram[clip]'"
        ) from error
    if not name.startswith(HUB) and not name.endswith(".json"):
        name = name.replace("/", "-")  # OpenAI writes ViT-B/32
        if name not in open_clip.list_models():
            near = get_close_matches(name, open_clip.list_models(), n=3)
            raise ConfigError(f"{key}.name: open_clip has no model named '{name}'; near: {', '.join(near) or 'none'}")
    tags = [HUB_WEIGHTS] if name.startswith(HUB) else open_clip.list_pretrained_tags_by_model(name)
    published = weights in tags
    if not published and not Path(weights).expanduser().is_file():
        near = get_close_matches(weights, tags, n=3) or tags[:5]
        raise ConfigError(
            f"{key}.weights: expected a published tag of {name} or a local state dict, got '{weights}', which is "
            f"neither; tags: {', '.join(near) or 'none'}"
        )
    with _quiet(), _place(name, key) as place:
        if published:
            model = _published(open_clip, place, weights, key)
        else:
            model = _built(open_clip, place, name, key)
            load_local_weights(model, weights, name)
        tokenizer = _tokenizer(open_clip, place)
    mean, std = _normalisation(open_clip, name, model, [weights] if published else tags)
    visual, model.visual = model.visual, None
    model = model.train(False).double()
    return Clip(visual, model.encode_text, tokenizer, model.logit_scale.detach(), mean, std)


@torch.no_grad()  # not inference_mode: a head is made of them, and gradients pass through it
def text_features(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Features of N texts, of length one: [N, F] float64."""
    parts = [list(texts[start : start + TEXTS_AT_ONCE]) for start in range(0, len(texts), TEXTS_AT_ONCE)]
    features = torch.cat([clip.encode_text(clip.tokenizer(part)) for part in parts])
    return nn.functional.normalize(features, dim=1)


def class_features(clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Mean direction of each class over its prompts.

    Shapes:
        -> [K, F] float64, of length one but for the rounding to multiples of 2^-22. A fingerprint is taken of them, and
        sums that machines add up in another order almost always round to the same.
    """
    spoken = [name.replace("_", " ") for name in class_names]
    log.info("clip     reads %d prompts", len(spoken) * len(templates))
    features = text_features(clip, [template.replace("{}", name) for name in spoken for template in templates])
    mean = nn.functional.normalize(features.view(len(spoken), len(templates), -1).mean(dim=1), dim=1)
    return (mean * GRID).round() / GRID


def expect_templates(templates: Sequence[str], key: str) -> None:
    """Refuses templates that have no single place for the class name.

    Raises:
        ConfigError: If there is no template, or one has not exactly one ``{}``.
    """
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ConfigError(
            f"{key}.templates: expected texts with one {{}} each, where the class name goes, got {list(templates)}"
        )


def _published(open_clip: ModuleType, place: str, tag: str, key: str) -> Any:
    """The model with published weights, and with the activation that these were trained with."""
    record = open_clip.get_pretrained_cfg(place, tag)
    gelu, on_hub = bool(record.get("quick_gelu")), place.startswith(HUB)
    try:
        return open_clip.create_model(
            place, None if on_hub else tag, force_quick_gelu=gelu, pretrained_text=False, require_pretrained=True
        )
    except Exception as error:  # the hub client's exceptions differ between versions
        repository = place.removeprefix(HUB) if on_hub else record.get("hf_hub", "").rstrip("/")
        name = f"{place}-quickgelu" if gelu and not place.endswith("-quickgelu") else place
        remedy = f"and set {key}.weights=FILE with {key}.name={'FOLDER/' + CONFIG_FILE if on_hub else name}"
        raise SourceError(
            f"{place}: weights '{tag}' are neither cached nor downloadable ({error}). Put the file "
            f"open_clip_model.safetensors of the hub repository {repository} anywhere {remedy}, or copy the cache "
            f"folder {hub_cache()} from a machine that has it"
        ) from error


def _built(open_clip: ModuleType, place: str, name: str, key: str) -> Any:
    """The model with random weights."""
    try:
        return open_clip.create_model(place, load_weights=False, pretrained_text=False)
    except Exception as error:  # whatever the towers say of a configuration they cannot use
        raise ConfigError(f"{key}.name: open_clip cannot build '{name}': {error}") from error


def _tokenizer(open_clip: ModuleType, place: str) -> Any:
    try:
        return open_clip.get_tokenizer(place)
    except Exception as error:  # likewise: some tokenizers come from the hub
        raise SourceError(
            f"{place}: its tokenizer is neither cached nor downloadable ({error}); copy the cache folder {hub_cache()} "
            "from a machine that has it"
        ) from error


def _normalisation(
    open_clip: ModuleType, name: str, model: Any, tags: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """That of the published weights of this name, where they agree, so that it holds for a local copy of them too."""
    records = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    published = {(tuple(record["mean"]), tuple(record["std"])) for record in records if record}
    own = model.visual.preprocess_cfg
    return published.pop() if len(published) == 1 else (tuple(own["mean"]), tuple(own["std"]))


@contextmanager
def _place(name: str, key: str) -> Iterator[str]:
    """What open_clip calls the model: for a configuration file, the folder that holds it in the layout of the hub."""
    path = Path(name).expanduser()
    if path.suffix != ".json":
        yield name
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"no table of settings but {config!r}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}.name: expected a model configuration in JSON at {path}, got: {error}") from error
    if path.name == CONFIG_FILE:  # its tokenizer may lie beside it
        yield f"local-dir:{path.parent}"
        return
    with TemporaryDirectory() as folder:
        config = config if "model_cfg" in config else {"model_cfg": config}
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        yield f"local-dir:{folder}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what open_clip says of each step from the root logger, where it writes, and which it would configure."""

    def is_ours(record: logging.LogRecord) -> bool:
        return Path(record.pathname).parent.name != "open_clip"

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(is_ours)
    try:
        with catch_warnings():
            filterwarnings("ignore", "QuickGELU mismatch")  # of roberta-ViT-B-32, where open_clip's record is wrong
            yield
    finally:
        root.removeFilter(is_ours)
        root.removeHandler(handler)
