"""Steps that the encoding of the images swallows."""

import logging

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.estimators.backprop import Backprop
from reprogram.estimators.base import GradientEstimator
from reprogram.estimators.two_sided import TwoSided
from reprogram.programs.base import InputProgram
from reprogram.programs.frame import FrameProgram
from reprogram.programs.full import FullProgram
from reprogram.training.smoothing_check import check_smoothing


class Everywhere(Backprop):
    """Asks at a point whose coordinates are all so far from theta."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = distance

    def typical_point(self, theta: Tensor) -> Tensor:
        return theta + self.distance


def full() -> InputProgram:
    """Near zero, a parameter is the offset of its pixel."""
    return FullProgram((8, 8), 8)


def warnings_of(estimator: GradientEstimator, program: InputProgram, caplog, encoding: str = "png") -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_smoothing(program, estimator, encoding)
    return caplog.text


@pytest.mark.parametrize(
    ("levels", "said"), [(2.0, ""), (0.6, ""), (0.4, "0.4 levels of 8 bits"), (0.1, "0.1 levels of 8 bits")]
)
def test_less_than_half_a_level_is_worth_a_warning(levels: float, said: str, caplog) -> None:
    text = warnings_of(Everywhere(levels / 255), full(), caplog)
    assert said in text
    assert bool(text) == bool(said)


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
@pytest.mark.parametrize("program", [full(), FrameProgram((8, 8), 6)], ids=["full", "frame"])
def test_a_step_that_no_pixel_shows_is_refused(program: InputProgram, encoding: str) -> None:
    # an untrained program leaves mid-grey, half-way between two levels: even the smallest step could tip it over
    for distance in (0.0, 1e-6, -1e-6, 1e-5):
        with pytest.raises(ConfigError, match=rf"estimator\.smoothing: .*sent as {encoding}, .*levels.*make it larger"):
            check_smoothing(program, Everywhere(distance), encoding)


def test_less_than_a_twentieth_of_a_level_is_refused(caplog) -> None:
    assert "0.06 levels of 8 bits" in warnings_of(Everywhere(0.06 / 255), full(), caplog)
    for side in (8, 64):  # however many pixels there are
        with pytest.raises(ConfigError, match=r"pixels move by 0\.04 levels"):
            check_smoothing(FullProgram((side, side), side), Everywhere(0.04 / 255), "png")


def test_a_direction_is_spread_over_all_parameters(caplog) -> None:
    program = FullProgram((8, 8), 8)
    length = torch.tensor(float(program.theta.numel())).sqrt()
    assert not warnings_of(TwoSided(smoothing=float(length) / 255), program, caplog)
    assert "levels" in warnings_of(TwoSided(smoothing=float(length) / 4 / 255), program, caplog)


def test_floats_and_gradients_lose_nothing(caplog) -> None:
    assert not warnings_of(Everywhere(1e-9), full(), caplog, "float")
    assert not warnings_of(Backprop(), full(), caplog)
