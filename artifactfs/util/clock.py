"""The clocks of a mount. Injected everywhere, so that tests turn them."""

import time


def boottime() -> float:
    """Return seconds that include the time in suspend (docs/semantics.md 3.1), from an arbitrary start.

    `trio.current_time` and `time.monotonic` stop during a suspend (pitfalls.md): after a night asleep, last night's
    listings would still be fresh.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
