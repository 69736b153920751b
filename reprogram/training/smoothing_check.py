"""Whether what an estimator asks about can be seen in the images that are sent."""

import logging

import torch

from reprogram.errors import ConfigError
from reprogram.estimators.base import GradientEstimator
from reprogram.programs.base import InputProgram
from reprogram.sources.encoding import encode, resolution

log = logging.getLogger(__name__)


@torch.no_grad()
def check_smoothing(program: InputProgram, estimator: GradientEstimator, encoding: str, jpeg_quality: int) -> None:
    """Composes one mid-grey image with and without a typical displacement, as the oracle would see them.

    A step that moves pixels by less than half a level of the encoding vanishes for most of them: that is worth a
    warning; one that vanishes for all would only buy zeros.

    Raises:
        ConfigError: If the displaced image is the same as the other once it is encoded.
    """
    point, level = estimator.typical_point(program.theta.detach()), resolution(encoding)
    if point is None or not level:
        return
    context = program.context(torch.full((1, 3, *program.placement.size), 0.5))
    here, there = program(context), program(context, point)
    moved = (there - here).abs()
    moved = moved[moved > 0]
    root_mean_square = float(moved.square().mean().sqrt()) if moved.numel() else 0.0
    steps = f"sent as {encoding}, pixels move by {root_mean_square / level:.2g} levels of 8 bits (root mean square)"
    if torch.equal(encode(here, encoding, jpeg_quality), encode(there, encoding, jpeg_quality)):
        raise ConfigError(f"estimator.smoothing: expected a step that the source can see, but {steps}; make it larger")
    if root_mean_square < level / 2:
        log.warning("estimator.smoothing: %s; below half a level most of the step is lost, make it larger", steps)
