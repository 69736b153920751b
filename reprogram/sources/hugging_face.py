"""Any image classifier of Hugging Face transformers, from the hub or from a local folder."""

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn

from reprogram.errors import ConfigError, ReprogramError, SourceError
from reprogram.sources.network import NetworkSource

log = logging.getLogger(__name__)

SIDE = 53  # of the images shown to an image processor (pixels); no network has this input size
FILES = "config.json, model.safetensors and preprocessor_config.json"


def hugging_face_source(
    name: str,
    revision: str | None = None,
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> NetworkSource:
    """Builds an image classifier of transformers.

    Size and normalisation are those of the model's own image processor. It is asked, by a black, a white and a red
    image, since its record does not tell all that it does: EfficientNet's divides by ``std`` twice, MobileViT's turns
    RGB to BGR. Weights run as float32, however they are stored, and code that comes with a model is never run.

    Args:
        name: Name on the hub, such as ``microsoft/resnet-18``, or a local folder as ``save_pretrained`` writes it.
        revision: Branch, tag or commit on the hub; ``None``: the newest.
        image_size: Canvas (pixels); ``None``: what the image processor gives for a square image.
        mean: Normalisation of pixels in [0, 1]; ``None``: that of the image processor, to six decimals.
        std: Likewise.
        class_names: ``None``: those of the model's configuration.

    Raises:
        ConfigError: If transformers is not installed, the model is no image classifier, or its size or normalisation
            cannot be told.
        SourceError: If the model is neither local nor downloadable, or its weights do not fit or lack the classifier.
    """
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "source=hugging_face: expected the package transformers; install it with "
            "pip install 'reprogram[huggingface]'"
        ) from error
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise _not_found(name, "there is no config.json in it")
    with _quiet():
        network, known_names = _load(name, place, revision)
        seen = _see(place, revision)
    image_size, mean, std = image_size or seen.image_size, mean or seen.mean, std or seen.std
    if image_size is None or mean is None or std is None:
        raise ConfigError(f"{name}: {seen.problem}")
    try:
        return NetworkSource(
            name=folder.resolve().name if folder.is_dir() else name,
            network=Logits(network, seen.bgr),
            image_size=image_size,
            mean=mean,
            std=std,
            class_names=class_names or known_names,
            facts=(_facts(network), str(seen.bgr)),
        )
    except ReprogramError:
        raise
    except ValueError as error:  # how vision transformers refuse another size
        height, width = image_size
        raise SourceError(
            f"{name}: cannot score an image of {height}x{width} pixels ({error}); set source.image_size"
        ) from error


def _facts(network: nn.Module) -> str:
    """The configuration, without what only says where it comes from: the weights do not tell activations."""
    configuration = cast(Any, network).config.to_dict()
    passing = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
    return json.dumps(
        {key: value for key, value in configuration.items() if key not in passing}, sort_keys=True, default=str
    )


class Logits(nn.Module):
    """Gives nothing but the logits of a classifier of transformers.

    Args:
        model: Takes ``pixel_values``.
        bgr: Whether it expects blue first.
    """

    def __init__(self, model: nn.Module, bgr: bool) -> None:
        super().__init__()
        self.model, self.bgr = model, bgr

    def forward(self, images: Tensor) -> Tensor:
        """Shapes: normalised images [B, 3, H, W] -> logits [B, K_s]."""
        answer = self.model(pixel_values=images.flip(1) if self.bgr else images, return_dict=True)
        return cast(Tensor, answer.logits)


def _load(name: str, place: str, revision: str | None) -> tuple[nn.Module, list[str]]:
    """The network with all its weights, and the names of its classes."""
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSIFIERS

    common = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(place, **common)
    except ValueError as error:  # a type that this version does not know, or that needs code from the hub
        raise ConfigError(
            f"source.name: expected an image classifier of transformers, got {name} ({_first_line(error)}); code from "
            "the hub is never run: such a network can be a source=module"
        ) from error
    except Exception as error:  # the hub client's exceptions differ between versions
        raise _not_found(name, _first_line(error)) from error
    if type(config) not in CLASSIFIERS:
        raise ConfigError(
            f"source.name: expected an image classifier of transformers, got {name}, a {config.model_type} model; "
            "choose one that the hub lists under image classification"
        )
    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            place, config=config, dtype=torch.float32, output_loading_info=True, **common
        )
    except ImportError as error:
        raise ConfigError(f"source.name: {name} needs another package: {error}") from error
    except Exception as error:
        raise _not_found(name, _first_line(error)) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"]))
        raise SourceError(
            f"{name}: expected weights for the whole classifier, got none for {missing}, which would be random; choose "
            "a checkpoint that was trained to classify images"
        )
    if report["unexpected_keys"]:
        log.warning("%s: its configuration leaves out the weights %s", name, sorted(report["unexpected_keys"])[:5])
    takes = inspect.signature(model.forward).parameters
    if "pixel_values" not in takes or "input_ids" in takes:
        raise ConfigError(f"source.name: expected a classifier of pixels, got {name}, which takes {', '.join(takes)}")
    return model, [str(config.id2label.get(index, f"class_{index}")) for index in range(config.num_labels)]


class Seen(NamedTuple):
    """What an image processor does, as far as it can be told; ``problem`` says what cannot, and the remedy."""

    image_size: tuple[int, int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    bgr: bool = False
    problem: str = ""


def _see(place: str, revision: str | None) -> Seen:
    """Shows three images to the model's image processor."""
    from transformers import AutoImageProcessor

    colours = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("black", "white", "red")]
    try:
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            place, revision=revision, trust_remote_code=False
        )
        pixels: Tensor = processor(images=colours, return_tensors="pt")["pixel_values"]
        height, width = pixels.shape[2:]
        black, white, red = (pixels[image, :, height // 2, width // 2].double() for image in range(3))
        if not (white > black).all():
            raise ValueError(f"white becomes {white.tolist()} and black {black.tolist()}")
        factor = getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 1.0
    except Exception as error:  # no record, or one of another kind
        return Seen(
            problem=f"expected an image processor (preprocessor_config.json), got none that can be used "
            f"({_first_line(error)}); set source.image_size=[height,width], source.mean and source.std"
        )
    std = [round(value, 6) for value in (1 / (white - black)).tolist()]
    mean = [round(value, 6) for value in ((0 - black) / (white - black)).tolist()]
    seen = Seen((height, width), mean, std, bgr=not torch.equal(red[0], white[0]))
    if abs(factor * 255 - 1) > 1e-6:
        seen = Seen(
            seen.image_size,
            bgr=seen.bgr,
            problem=f"expected an image processor that scales pixels by 1/255, got {factor:.6g}; set the normalisation "
            f"of pixels in [0, 1] that the network was trained with (as recorded: source.mean={mean} source.std={std})",
        )
    if (height, width) == (SIDE, SIDE):
        size = (
            "expected an image processor that sets a size, got one that keeps any; set source.image_size=[height,width]"
        )
        seen = seen._replace(image_size=None, problem="; ".join(filter(None, (seen.problem, size))))
    return seen


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from logging tables and warnings while it loads: what matters is an error here."""
    from transformers.utils import logging as their_logging

    level = their_logging.get_verbosity()
    their_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        their_logging.set_verbosity(level)


def _not_found(name: str, reason: str) -> SourceError:
    return SourceError(
        f"{name}: expected a model on the hub or a local folder, got none that can be loaded ({reason}). "
        f"Put {FILES} of its hub repository into a folder and set source.name=FOLDER"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
