"""When requests may leave, on a clock that only sleeping moves."""

import asyncio
from types import SimpleNamespace

import pytest

from reprogram.sources.http import pacing
from reprogram.sources.http.pacing import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    state = SimpleNamespace(now=100.0, ended=False)

    async def sleep(seconds: float) -> bool:
        state.now += seconds
        return state.ended

    state.sleep = sleep
    loop = SimpleNamespace(time=lambda: state.now)
    monkeypatch.setattr(pacing, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return state


def turns(pace: Pace, clock: SimpleNamespace, images: list[int]) -> list[float]:
    """When each of some requests leaves, one after the other."""

    async def all_turns() -> list[float]:
        found = []
        for count in images:
            await pace.turn(count, clock.sleep)
            found.append(round(clock.now - 100, 6))
        return found

    return asyncio.run(all_turns())


@pytest.mark.parametrize(
    ("by_request", "by_image", "expected"),
    [(None, None, [0, 0, 0]), (4.0, None, [0, 0.25, 0.5]), (None, 10.0, [0, 0.2, 0.7]), (4.0, 10.0, [0, 0.25, 0.75])],
)
def test_requests_are_spaced(
    by_request: float | None, by_image: float | None, expected: list[float], clock: SimpleNamespace
) -> None:
    assert turns(Pace(by_request, by_image, 9, 1.0), clock, [2, 5, 1]) == expected


def test_unused_time_is_not_saved_up(clock: SimpleNamespace) -> None:
    pace = Pace(2.0, None, 9, 1.0)
    assert turns(pace, clock, [1]) == [0]
    clock.now += 10
    assert turns(pace, clock, [1, 1]) == [10, 10.5]


def test_a_service_is_given_the_time_it_asks_for(clock: SimpleNamespace) -> None:
    pace = Pace(None, None, 9, 1.0)
    pace.failed(7.0)
    pace.failed(3.0)
    assert turns(pace, clock, [1]) == [7]


def test_failures_in_a_row_pause_all(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    pace = Pace(None, None, 3, 20.0)
    pace.failed(None)
    pace.failed(None)
    pace.succeeded()
    pace.failed(None)
    pace.failed(None)
    assert turns(pace, clock, [1]) == [0]
    pace.failed(None)
    assert turns(pace, clock, [1]) == [20]
    pace.failed(None)  # it is still down
    assert turns(pace, clock, [1]) == [40]
    pace.succeeded()
    pace.failed(None)
    assert turns(pace, clock, [1]) == [40]
    assert caplog.text.count("3 attempts in a row failed: sending pauses for 20 s") == 2


def test_nobody_waits_for_a_turn_that_will_not_come(clock: SimpleNamespace) -> None:
    pace = Pace(None, None, 9, 1.0)
    pace.failed(7.0)
    pace._paused_until += 1e9
    clock.ended = True
    assert turns(pace, clock, [1]) == [pytest.approx(1e9 + 7)]  # after one sleep, which was cut short
