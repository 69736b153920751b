"""Learning rates over a whole training."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from reprogram.errors import ConfigError
from reprogram.training.schedules import cosine, exponential, multistep


def optimizer() -> torch.optim.Optimizer:
    one, other = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([{"params": [one], "lr": 2.0}, {"params": [other], "lr": 0.01}])


def rates(schedule: LRScheduler, steps: int) -> list[tuple[float, ...]]:
    found = []
    for _ in range(steps):
        found.append(tuple(schedule.get_last_lr()))
        schedule.optimizer.step()
        schedule.step()
    return found


def test_cosine_falls_from_the_full_rate_to_zero() -> None:
    found = rates(cosine(optimizer(), 8), 9)
    for step, (program, mapping) in enumerate(found):
        factor = 0.5 * (1 + math.cos(math.pi * step / 8))
        assert program == pytest.approx(2 * factor)
        assert mapping == pytest.approx(0.01 * factor)
    assert found[0][0] == 2
    assert found[4][0] == pytest.approx(1)
    assert found[8][0] == pytest.approx(0)


def test_cosine_does_not_rise_again_after_the_end() -> None:
    assert rates(cosine(optimizer(), 4), 8)[-1] == pytest.approx((0, 0))


def test_exponential_falls_by_the_same_factor_every_step_and_stays_at_the_end() -> None:
    found = rates(exponential(optimizer(), 4, final=0.16), 7)
    assert [program for program, _ in found] == pytest.approx(
        [2 * factor for factor in (1, 0.632456, 0.4, 0.252982)] + [0.32] * 3, rel=1e-5
    )
    assert found[2][1] == pytest.approx(0.004)


@pytest.mark.parametrize("final", [0.0, -0.1, 1.5, math.nan])
def test_a_last_rate_that_is_no_fraction_is_refused(final: float) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.final.*\(0, 1\]"):
        exponential(optimizer(), 100, final)


def test_multistep_by_default_follows_ilm_vp() -> None:
    program = [rate for rate, _ in rates(multistep(optimizer(), 100), 100)]
    assert program[:50] == pytest.approx([2.0] * 50)
    assert program[50:72] == pytest.approx([0.2] * 22)
    assert program[72:] == pytest.approx([0.02] * 28)


def test_multistep_with_other_milestones() -> None:
    found = rates(multistep(optimizer(), 10, milestones=(0.25,), gamma=0.5), 10)
    assert [rate for rate, _ in found] == [2.0] * 3 + [1.0] * 7  # step 3 is the first at or after 2.5


@pytest.mark.parametrize("milestones", [(0.0,), (1.0,), (0.5, 1.5), (30, 60)])
def test_milestones_that_are_no_fractions_are_refused(milestones: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.milestones.*\(0, 1\)"):
        multistep(optimizer(), 100, milestones)
