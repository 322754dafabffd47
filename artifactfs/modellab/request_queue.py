"""The places for requests of one transport: as many at once as its pool has connections, and none taken for good.

httpcore's pool must never queue itself (encode/httpcore#1093), so every request has a place first. What is hard: a
request that stalls keeps its place for a whole deadline. So targets that stalled before share few places, and a
request that has queued for half of its time takes an extra place.
"""

from collections.abc import Callable

import trio

from artifactfs import errors
from artifactfs.modellab.circuit_breaker import PendingRequest

# Extra places for requests that have queued for half of their time.
_EXTRA = 16
# Places of targets that stalled before, and how long others of these wait for one: below the 12 reads that the kernel
# lets be under way on a mount, of which a sequential reader has two (pitfalls.md).
_STALLED = 4
_STALLED_WAIT_S = 1.0


class RequestQueue:
    """`width`: requests at once, as long as none stalls."""

    def __init__(self, width: int) -> None:
        self._limiter = trio.CapacityLimiter(width)
        self._extra = trio.CapacityLimiter(_EXTRA)
        self._stalled = trio.CapacityLimiter(_STALLED)
        # Connections that the pool must have.
        self.most = width + _EXTRA

    @property
    def free(self) -> int:
        """How many places are free."""
        return int(self._limiter.available_tokens)

    @property
    def in_use(self) -> int:
        """How many requests have a place."""
        return self._limiter.borrowed_tokens + self._extra.borrowed_tokens

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return self._limiter.statistics().tasks_waiting

    async def acquire(self, wait: PendingRequest, now: float, left_s: float) -> Callable[[], None]:
        """Wait for a place; returns what gives it back, which any task may call. Raises NotAsked."""
        place = object()
        taken: list[trio.CapacityLimiter] = []

        def leave() -> None:
            for limiter in taken:
                limiter.release_on_behalf_of(place)

        if wait.has_stalled(now):
            with trio.move_on_after(min(_STALLED_WAIT_S, left_s / 2)):
                await self._stalled.acquire_on_behalf_of(place)
                taken.append(self._stalled)
            if not taken:
                raise errors.NotAsked("this did not answer a moment ago, nor did others that are asked again just now")
        try:
            with trio.move_on_after(left_s / 2):
                await self._limiter.acquire_on_behalf_of(place)
                taken.append(self._limiter)
                return leave
            await self._extra.acquire_on_behalf_of(place)
        except BaseException:
            leave()
            raise
        taken.append(self._extra)
        return leave
