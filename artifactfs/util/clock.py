"""The clocks of a mount. Injected everywhere, so that tests turn them."""

import time


def boottime() -> float:
    """Return seconds that go on while the machine sleeps (semantics 3.1), from an arbitrary start.

    `trio.current_time` and `time.monotonic` stand still during a suspend (pitfalls.md): a laptop that slept
    all night would take last night's listings for fresh.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
