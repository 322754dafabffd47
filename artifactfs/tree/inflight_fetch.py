"""A fetch of the listing cache that is in flight, its waiters, and the entry that it results in."""

from typing import Generic, TypeVar

import msgspec
import trio

V = TypeVar("V")


class CacheEntry(msgspec.Struct, Generic[V], frozen=True, gc=False, eq=False):
    """A value, when it was requested, and until when it is fresh (seconds of the cache's clock).

    A value holds nothing that holds its entry: the garbage collector does not look here.
    `refresh_requested`: the user requested a refresh of this entry (docs/semantics.md 3.3). `weight` counts against the
    bound of its cache.
    """

    value: V
    requested_at: float
    fresh_until: float
    stale_until: float
    refresh_requested: bool = False
    weight: int = 1


class InflightFetch(Generic[V]):
    """A fetch that runs, and how many wait for it. `first`: there is no stale value."""

    def __init__(self, started: float, *, first: bool) -> None:
        self.started = started
        self.first = first
        self.waiters = 0
        # Whether a task supervises it, since its last waiter gave up.
        self.supervised = False
        self.scope = trio.CancelScope()
        # Its result goes to its waiters, and is not stored.
        self.discarded = False
        self._done = trio.Event()
        self._entry: CacheEntry[V] | None = None
        self._error: BaseException | None = None

    @property
    def has_no_waiters(self) -> bool:
        """Whether a first fetch still runs, and all its waiters gave up."""
        return self.first and not self.waiters and not self._done.is_set()

    def resolve(self, entry: CacheEntry[V] | None, error: BaseException | None) -> None:
        """Wake the waiters with an entry or an exception. Never blocks."""
        if not self._done.is_set():
            self._entry, self._error = entry, error
            self._done.set()

    async def wait(self) -> CacheEntry[V]:
        """Wait for the entry; raises the exception of the fetch."""
        self.waiters += 1
        try:
            await self._done.wait()
        finally:
            self.waiters -= 1
        if self._entry is None:
            raise self._error or RuntimeError("a fetch was resolved with neither an entry nor an error")
        return self._entry
