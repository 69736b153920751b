"""Several sources that answer as one."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprogram.errors import ConfigError, ShapeError
from reprogram.sources.base import SourceModel
from reprogram.types import SourceSpec

COMBINE = ("average", "concatenate")


class EnsembleSource(SourceModel):
    """Shows each image to all its members; that is one query, however many they are.

    A member of another input size than the canvas gets the canvas resized (bilinear, antialiased). The gradient reaches
    the pixels through every member; if one of them has none, the ensemble has none.

    Args:
        members: At least two sources by name, each as it would run alone.
        combine: ``average``: the mean of the members' probabilities, for members with the same classes in the same
            order. ``concatenate``: the classes of all members side by side, each member holding an equal share of the
            probability; a name that several members have becomes ``member/name``.
        image_size: Canvas (pixels); ``None``: that of the member with most pixels.

    Raises:
        ConfigError: If there are too few members, or these cannot be combined so.

    Reference:
        Averaging: Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, Lakshminarayanan et al.,
        NeurIPS 2017, arXiv 1612.01474, section 2.4.
    """

    def __init__(
        self,
        members: Mapping[str, SourceModel],
        combine: str = "average",
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise ConfigError(
                f"source.members: expected at least two sources, got {len(members)}; add one with "
                "'+source@source.members.NAME=embedded'"
            )
        if combine not in COMBINE:
            raise ConfigError(f"source.combine: expected one of {', '.join(COMBINE)}, got '{combine}'")
        if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
            raise ConfigError(f"source.image_size: expected [height,width] in pixels, got {list(image_size)}")
        specs = {name: member.spec for name, member in members.items()}
        height, width = image_size or max((spec.image_size for spec in specs.values()), key=math.prod)
        self.combine, self.sizes = combine, [spec.image_size for spec in specs.values()]
        self.members = nn.ModuleList(members.values()).requires_grad_(False)
        self.train(False)
        self.spec = SourceSpec(
            name="+".join(spec.name for spec in specs.values()),
            image_size=(height, width),
            class_names=_same_names(specs) if combine == "average" else _all_names(specs),
            feature_dim=None,
            differentiable=all(spec.differentiable for spec in specs.values()),
        )
        prints = [member.fingerprint for member in members.values()]
        self._fingerprint = hashlib.sha256(repr((combine, (height, width), prints)).encode()).hexdigest()
        done = {name: getattr(member, "preparation", None) for name, member in members.items()}
        self.preparation = None if None in done.values() else "; ".join(f"{name}: {did}" for name, did in done.items())

    def forward(self, images: Tensor) -> Tensor:
        """Scores images by all members."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.spec.image_size):
            raise ShapeError(
                f"{self.spec.name}: expected images [B, 3, {self.spec.image_size[0]}, {self.spec.image_size[1]}], "
                f"got {list(images.shape)}; place target images on the canvas first"
            )
        # a gradient through some of the members only would be a wrong one
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.spec.differentiable):
            pairs = zip(self.members, self.sizes, strict=True)
            answers = [member(_resized(images, size)) for member, size in pairs]
            shared = [answer - math.log(len(answers)) for answer in answers]
            if self.combine == "concatenate":
                return torch.cat(shared, dim=1)
            return torch.stack(shared).logsumexp(dim=0)

    def at_once(self, graph: bool = False) -> int:
        """What the member of the largest appetite allows; the graphs of all are kept together."""
        least: int = min(member.at_once(graph) for member in self.members)  # type: ignore[operator]
        return max(1, least // len(self.members)) if graph else least

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the members in their order, the canvas, and how they are combined."""
        return self._fingerprint


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The same pictures at another size, still in [0, 1]; rounding beyond that does not stop the gradient."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    resized = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    return resized + (resized.clamp(0, 1) - resized).detach()


def _same_names(specs: Mapping[str, SourceSpec]) -> tuple[str, ...]:
    (first, names), *others = ((member, spec.class_names) for member, spec in specs.items())
    for other, its in others:
        if its != names:
            pairs = enumerate(zip(names, its, strict=False))
            where = next((f" (class {index}: '{one}', '{two}')" for index, (one, two) in pairs if one != two), "")
            raise ConfigError(
                f"source.combine: expected the same classes of all members to average, got {len(names)} of {first} and "
                f"{len(its)} of {other}{where}; set source.combine=concatenate, or the class_names of both alike"
            )
    return names


def _all_names(specs: Mapping[str, SourceSpec]) -> tuple[str, ...]:
    owners = Counter(name for spec in specs.values() for name in set(spec.class_names))
    return tuple(
        f"{member}/{name}" if owners[name] > 1 else name for member, spec in specs.items() for name in spec.class_names
    )
