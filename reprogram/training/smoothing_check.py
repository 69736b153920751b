"""Whether what an estimator asks about can be seen in the images that are sent."""

import logging

import torch

from reprogram.errors import ConfigError
from reprogram.estimators.base import GradientEstimator
from reprogram.programs.base import InputProgram
from reprogram.sources.encoding import resolution

log = logging.getLogger(__name__)

LEAST, ENOUGH = 0.05, 0.5  # levels


@torch.no_grad()
def check_smoothing(program: InputProgram, estimator: GradientEstimator, encoding: str) -> None:
    """Composes one mid-grey image with and without a typical displacement, and compares them in levels of the encoding.

    A step that moves pixels by less than half a level vanishes for most of them: that is worth a warning; one that
    vanishes for nearly all would only buy noise. The encoded images themselves say little: mid-grey is the edge of a
    level.

    Raises:
        ConfigError: If the values sent move by less than a twentieth of a level.
    """
    point, level = estimator.typical_point(program.theta.detach()), resolution(encoding)
    if point is None or not level:
        return
    context = program.context(torch.full((1, 3, *program.placement.size), 0.5))
    moved = (program(context, point) - program(context)).abs() / level
    moved = moved[moved > 0]
    root_mean_square = float(moved.square().mean().sqrt()) if moved.numel() else 0.0
    steps = f"sent as {encoding}, pixels move by {root_mean_square:.2g} levels of 8 bits (root mean square)"
    if root_mean_square < LEAST:  # a value that moves by a part of a level differs with that probability
        raise ConfigError(f"estimator.smoothing: expected a step that the source can see, but {steps}; make it larger")
    if root_mean_square < ENOUGH:
        log.warning("estimator.smoothing: %s; below half a level most of the step is lost, make it larger", steps)
