"""When keys of a cache were invalidated: an answer that was requested before says nothing of them any more.

A page of rows, or a sample that checks the index, comes by a request of its own: no fetch of the key is in flight that
could be discarded. Bounded: of what is no longer held, every key counts as invalidated.
"""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)

# Invalidations of one key each, and of many: many more than there are while a request is answered. Arbitrary.
_MAX_KEYS, _MAX_CONDITIONS = 10_000, 1000
_NEVER = float("-inf")


class InvalidationTimes(msgspec.Struct, Generic[K], eq=False):
    """Seconds of the cache's clock, by key, and with a condition that says which keys are meant.

    `latest`: of all. `forgotten`: the latest of those that are no longer held.
    """

    by_key: dict[K, float] = {}
    by_condition: deque[tuple[float, Callable[[K], bool]]] = msgspec.field(default_factory=deque)
    latest: float = _NEVER
    forgotten: float = _NEVER


def add(times: InvalidationTimes[K], key: K, then: float) -> None:
    """Record that a key was invalidated."""
    times.by_key[key] = max(then, times.by_key.pop(key, _NEVER))  # the latest at the end
    times.latest = max(times.latest, then)
    if len(times.by_key) > _MAX_KEYS:
        times.forgotten = max(times.forgotten, times.by_key.pop(next(iter(times.by_key))))


def add_where(times: InvalidationTimes[K], applies: Callable[[K], bool], now: float) -> None:
    """Record that keys are invalidated `now`, whether they are cached or not."""
    times.by_condition.append((now, applies))
    times.latest = max(times.latest, now)
    if len(times.by_condition) > _MAX_CONDITIONS:
        times.forgotten = max(times.forgotten, times.by_condition.popleft()[0])


def is_outdated(times: InvalidationTimes[K], key: K, requested_at: float) -> bool:
    """Whether a key was invalidated after what was requested at that time."""
    if requested_at >= times.latest:
        return False
    if requested_at < max(times.forgotten, times.by_key.get(key, _NEVER)):
        return True
    for then, applies in reversed(times.by_condition):
        if then <= requested_at:
            return False
        if applies(key):
            return True
    return False
