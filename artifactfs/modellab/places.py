"""Places for requests: how many are under way at once, and which of them get one.

What is hard: a request that stalls keeps its place for a whole deadline. So targets that stalled before share few
places, and a request that has queued for half of its time takes an extra place.
"""

from collections.abc import Callable

import msgspec
import trio

from artifactfs import errors
from artifactfs.modellab.circuit_breaker import PendingRequest

# Requests at once, as long as none stalls; and how many of those places a prefetch leaves free.
CONCURRENCY = 16
RESERVED = 2
# Places beyond the width, for requests that have queued for half of their time.
_EXTRA = 16
MOST_PLACES = CONCURRENCY + _EXTRA
# Places of targets that stalled before, and how long others of these wait for one: below the 12 reads that the kernel
# lets be under way on a mount, of which a sequential reader has two (pitfalls.md).
_STALLED = 4
_STALLED_WAIT_S = 1.0


class Places(msgspec.Struct):
    """The places of one kind of requests. Create within trio."""

    usual: trio.CapacityLimiter = msgspec.field(default_factory=lambda: trio.CapacityLimiter(CONCURRENCY))
    extra: trio.CapacityLimiter = msgspec.field(default_factory=lambda: trio.CapacityLimiter(_EXTRA))
    stalled: trio.CapacityLimiter = msgspec.field(default_factory=lambda: trio.CapacityLimiter(_STALLED))


def may_prefetch(places: Places) -> bool:
    """Whether so many places are free that a prefetch delays no reader."""
    return places.usual.available_tokens > RESERVED


def in_use(places: Places) -> int:
    """Return how many requests have a place."""
    return places.usual.borrowed_tokens + places.extra.borrowed_tokens


def waiting(places: Places) -> int:
    """Return how many requests wait for a place."""
    return places.usual.statistics().tasks_waiting


async def acquire(places: Places, request: PendingRequest, now: float, left_s: float) -> Callable[[], None]:
    """Wait for a place, after half of `left_s` for an extra one; returns what gives it back, which any task may call.

    Raises NotAsked for a target that stalled before, where too many of these are under way.
    """
    place = object()
    taken: list[trio.CapacityLimiter] = []

    def leave() -> None:
        for limiter in taken:
            limiter.release_on_behalf_of(place)

    async def take(limiter: trio.CapacityLimiter) -> None:
        await limiter.acquire_on_behalf_of(place)
        taken.append(limiter)

    if request.breaker.has_stalled(request.target, now):
        with trio.move_on_after(min(_STALLED_WAIT_S, left_s / 2)):
            await take(places.stalled)
        if not taken:
            raise errors.NotAsked("this did not answer a moment ago, nor did others that are asked again just now")
    try:
        with trio.move_on_after(left_s / 2):
            await take(places.usual)
            return leave
        await take(places.extra)
    except BaseException:
        leave()
        raise
    return leave
