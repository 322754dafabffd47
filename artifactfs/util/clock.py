"""The clocks of a mount, injected so that tests control them, and the text of a moment."""

import datetime
import math
import time
from collections.abc import Callable

# 400 years, after which the calendar repeats itself.
_GREGORIAN_S = 146_097 * 86_400
# The machine's clock was set if it differs by more than this from what it should be by now; less is its drift.
_CLOCK_SET_S = 5.0


def boottime() -> float:
    """Return seconds that include the time in suspend (docs/semantics.md 3.1), from an arbitrary start.

    `trio.current_time` and `time.monotonic` stop during a suspend (pitfalls.md): after a night asleep, last night's
    listings would still be fresh.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def rfc3339(seconds: float) -> str:
    """Return a moment (seconds since the epoch) as RFC 3339, in UTC, to the second that it is in: as `stat` shows it.

    Any moment: offsets of a service can lead to the years 0 and 10000.
    """
    # datetime ends at the years 1 and 9999, and strftime writes the year 1 as `1`.
    cycles, within_s = divmod(math.floor(seconds), _GREGORIAN_S)
    when = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=within_s)
    return f"{when.year + 400 * cycles:04}-{when:%m-%dT%H:%M:%SZ}"


class WallTimes:
    """Moments of the caches' clock in seconds since the epoch, each the same whenever it is asked for.

    `clock` gives seconds that go on during sleep, `wall_clock_ns` nanoseconds since the epoch, which may be set.
    """

    def __init__(self, clock: Callable[[], float], wall_clock_ns: Callable[[], int]) -> None:
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._ahead_s = self._found_s()

    def of(self, moment: float) -> float:
        """Return a moment of the clock in seconds since the epoch.

        To the millisecond: what was stored and is stored again is not older by the error of a calculation.
        """
        return round(moment + self._offset_s(), 3)

    def age_s(self, wall_s: float, moment: float) -> float:
        """Return how old something is at a moment of the clock, by its seconds since the epoch; 0 for what is to come.

        `of(moment - age_s(wall_s, moment))` is `wall_s` again, if that came from `of`.
        """
        return max(0.0, moment + self._offset_s() - wall_s)

    def _offset_s(self) -> float:
        """Return how far the time of day is ahead of the clock: the same, as long as neither is set."""
        if abs((found_s := self._found_s()) - self._ahead_s) > _CLOCK_SET_S:
            self._ahead_s = found_s
        return self._ahead_s

    def _found_s(self) -> float:
        return self._wall_clock_ns() / 1e9 - self._clock()
