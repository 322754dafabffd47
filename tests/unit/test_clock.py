"""artifactfs.util.clock: moments as they are shown."""

import datetime
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.modellab.models import parse_time_ns
from artifactfs.util.clock import WallTimes, rfc3339


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (-0.5, "1969-12-31T23:59:59Z"),
        (1778922000.999, "2026-05-16T09:00:00Z"),
        (-11_644_473_600, "1601-01-01T00:00:00Z"),
        (-62_135_596_800, "0001-01-01T00:00:00Z"),
        (-62_135_596_801, "0000-12-31T23:59:59Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, "10000-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
    ],
)
def test_any_moment(seconds: float, shown: str) -> None:
    """The second that a moment is in, before 1970 and beyond what datetime knows."""
    assert rfc3339(seconds) == shown


@given(st.datetimes())
def test_what_is_read_is_shown(when: datetime.datetime) -> None:
    """A time of the service is shown as what it was, to the second."""
    text = f"{when.isoformat()}Z"
    time_ns = parse_time_ns(text)
    assert time_ns is not None
    assert rfc3339(time_ns // 10**9) == f"{text[:19]}Z"


@given(st.floats(0, 1e7), st.floats(0, 1e7), st.integers(0, 10**14))
def test_a_moment_is_the_same_there_and_back(stored_at: float, slept_s: float, started_ns: int) -> None:
    """8.1: what one mount stored and another one stores again is as old as it was, though each look at a clock is later
    than the one before.
    """
    ticks = itertools.count(started_ns, 17_003)

    def times(ahead_s: float) -> tuple[WallTimes, float]:
        def clock() -> float:
            return ahead_s + next(ticks) / 1e9

        return WallTimes(clock, lambda: 1_778_922_000 * 10**9 + next(ticks)), clock()

    before, now = times(stored_at)
    wall_s = before.of(now)
    later, now = times(stored_at + slept_s)
    assert later.of(now - later.age_s(wall_s, now)) == wall_s
