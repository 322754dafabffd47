"""The clocks of a mount, injected so that tests control them, and the text of a moment."""

import datetime
import math
import time

# 400 years, after which the calendar repeats itself.
_GREGORIAN_S = 146_097 * 86_400


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
