"""When a mapping is fitted."""

import pytest

from reprogram.errors import ConfigError
from reprogram.mappings.base import RefitSchedule


@pytest.mark.parametrize(
    ("refresh", "at_start", "observes", "due"),
    [
        ("never", False, False, []),
        ("once", True, False, []),
        ("validation", True, False, []),
        (1, True, True, [1, 2, 3, 4, 5, 6]),
        (2, True, True, [2, 4, 6]),
        (3, True, True, [3, 6]),
        (7, True, True, []),
    ],
)
def test_the_table_of_moments(refresh: str | int, at_start: bool, observes: bool, due: list[int]) -> None:
    schedule = RefitSchedule(refresh)
    assert schedule.at_start is at_start
    assert schedule.observes_training is observes
    assert [epoch for epoch in range(7) if schedule.due(epoch)] == due
    assert schedule.before_validation is (refresh == "validation")
    assert schedule.at_end is False
    assert RefitSchedule(refresh, at_end=True).at_end is True


@pytest.mark.parametrize("refresh", ["always", "1", "", 0, -1, True, False, 1.0, None])
def test_anything_else_is_refused(refresh: object) -> None:
    with pytest.raises(ConfigError, match=r"mapping\.refresh: expected never, once, validation, or a number"):
        RefitSchedule(refresh)  # type: ignore[arg-type]
