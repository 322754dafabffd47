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


class InflightFetch(msgspec.Struct, Generic[V], eq=False):
    """A fetch that runs, since `started`, and how many wait for it; once it is `done`, the entry or the error.

    `first`: there is no stale value. `supervised`: a task supervises it, since its last waiter gave up.
    `discarded`: its result goes to its waiters, and is not stored.
    """

    started: float
    first: bool
    waiters: int = 0
    supervised: bool = False
    discarded: bool = False
    scope: trio.CancelScope = msgspec.field(default_factory=trio.CancelScope)
    done: trio.Event = msgspec.field(default_factory=trio.Event)
    entry: CacheEntry[V] | None = None
    error: BaseException | None = None


def is_abandoned(fetch: InflightFetch[V]) -> bool:
    """Whether a first fetch still runs, and all its waiters gave up."""
    return fetch.first and not fetch.waiters and not fetch.done.is_set()


async def wait(fetch: InflightFetch[V]) -> CacheEntry[V]:
    """Wait for the entry; raises the exception of the fetch."""
    fetch.waiters += 1
    try:
        await fetch.done.wait()
    finally:
        fetch.waiters -= 1
    if fetch.entry is None:
        raise fetch.error or RuntimeError("a fetch was resolved with neither an entry nor an error")
    return fetch.entry


def resolve(fetch: InflightFetch[V], entry: CacheEntry[V] | None, error: BaseException | None) -> None:
    """Wake the waiters with an entry or an exception. Never blocks."""
    if not fetch.done.is_set():
        fetch.entry, fetch.error = entry, error
        fetch.done.set()
