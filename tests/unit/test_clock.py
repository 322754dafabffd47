"""artifactfs.util.clock: moments as they are shown."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.modellab.models import parse_time_ns
from artifactfs.util.clock import rfc3339


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
