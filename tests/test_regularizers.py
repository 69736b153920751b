"""Penalties on the program: their values, and that a step follows the sum of loss and penalty."""

import math

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.programs.frame import FrameProgram
from reprogram.programs.full import FullProgram
from reprogram.regularizers import Regularizer, SquaredNorm, TotalVariation


def full(theta: torch.Tensor) -> FullProgram:
    program = FullProgram((4, 5))
    with torch.no_grad():
        program.theta.copy_(theta.flatten())
    return program


def test_the_squared_norm_is_the_sum_over_theta() -> None:
    assert SquaredNorm(0.5)(full(torch.full((3, 4, 5), 2.0))).item() == pytest.approx(0.5 * 4 * 60)


def test_total_variation_is_the_mean_difference_of_neighbours() -> None:
    rows = torch.atanh(torch.tensor([0.0, 0.1, 0.3, 0.0])).view(1, 4, 1).expand(3, 4, 5)
    # rows of the canvas: 0.5, 0.6, 0.8, 0.5, so the differences down a column are 0.1, 0.2 and 0.3, and none across
    assert TotalVariation(2.0)(full(rows)).item() == pytest.approx(2.0 * 0.2)
    assert TotalVariation()(full(torch.zeros(3, 4, 5))).item() == 0


def test_the_variation_of_a_frame_sees_the_edge_to_the_image() -> None:
    program = FrameProgram((4, 4), 2)
    with torch.no_grad():
        program.theta.fill_(50.0)  # white around a mid-grey image
    # in each direction 4 of 12 differences are one half
    assert TotalVariation()(program).item() == pytest.approx(2 * 4 / 12 * 0.5)


@pytest.mark.parametrize("kind", [SquaredNorm, TotalVariation])
@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1e39])
def test_a_weight_that_is_none_is_refused(kind: type[Regularizer], weight: float) -> None:
    with pytest.raises(ConfigError, match=r"regularizer\.weight: expected a number > 0"):
        kind(weight)


def test_a_canvas_of_one_row_has_differences_across_alone() -> None:
    program = FullProgram((1, 3))
    with torch.no_grad():
        program.theta.copy_(torch.atanh(torch.tensor([0.0, 0.2, 0.0] * 3)))
    assert TotalVariation()(program).item() == pytest.approx(0.2)
