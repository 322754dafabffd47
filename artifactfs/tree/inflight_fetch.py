"""The fetches of a cache that are in flight, their waiters, and the entries that they result in."""

import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import msgspec
import trio

from artifactfs import errors

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A first fetch without waiters is supervised at this interval. A caller that comes when it has taken longer starts
# another fetch.
_SUPERVISE_S = 1.0
# The pause after an answer that is too large, each of which brings all the bytes that are permitted. The longest that a
# `Retry-After` makes: it may be hours, while the service is there again in minutes. Arbitrary.
_TOO_LARGE_S, _MAX_PAUSE_S = 2.0, 30.0


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


def outcome(fetch: InflightFetch[V]) -> CacheEntry[V]:
    """Return the entry of a fetch that is done; raises its exception."""
    if fetch.entry is None:
        raise fetch.error or RuntimeError("a fetch was resolved with neither an entry nor an error")
    return fetch.entry


def resolve(fetch: InflightFetch[V], entry: CacheEntry[V] | None, error: BaseException | None) -> None:
    """Wake the waiters with an entry or an exception. Never blocks."""
    if not fetch.done.is_set():
        fetch.entry, fetch.error = entry, error
        fetch.done.set()


class InflightFetches(msgspec.Struct, Generic[K, V], eq=False):
    """The fetches of one cache: `joined` by callers, by key, and all that are `running`.

    What was discarded or replaced runs on, and may still be answered. `nursery` outlives them. `has_room`: whether a
    fetch takes no other request's place.
    """

    nursery: trio.Nursery
    has_room: Callable[[], bool]
    joined: dict[K, InflightFetch[V]] = {}
    running: set[InflightFetch[V]] = set()


def to_join(fetches: InflightFetches[K, V], key: K, now: float, not_before: float) -> InflightFetch[V] | None:
    """Return a key's fetch if it can be joined `now`: it started at `not_before` or later."""
    fetch = fetches.joined.get(key)
    # Its waiters gave up on it: it may hang.
    if fetch is None or (is_abandoned(fetch) and now - fetch.started > _SUPERVISE_S):
        return None
    return fetch if fetch.started >= not_before else None


def start(fetches: InflightFetches[K, V], key: K, now: float, *, first: bool) -> InflightFetch[V]:
    """Return a fetch that starts `now`; it takes the place of another one."""
    fetch: InflightFetch[V] = InflightFetch(now, first=first)
    fetches.joined[key] = fetch
    fetches.running.add(fetch)
    return fetch


def end(
    fetches: InflightFetches[K, V],
    key: K,
    fetch: InflightFetch[V],
    entry: CacheEntry[V] | None,
    error: BaseException | None,
    *,
    counts: bool,
) -> None:
    """End a fetch, and wake its waiters. `counts`: its entry is no older than what its successor asks for."""
    fetches.running.discard(fetch)
    if (current := fetches.joined.get(key)) is fetch:
        del fetches.joined[key]
    elif current is not None and entry is not None and counts:
        # It seemed to hang, and is done before its successor.
        del fetches.joined[key]
        resolve(current, entry, None)
    resolve(fetch, entry, error)


def discard(fetches: InflightFetches[K, V], key: K) -> None:
    """Let a key's fetch be joined no more; its result goes to its waiters only."""
    if (fetch := fetches.joined.pop(key, None)) is not None:
        fetch.discarded = True


def cancel_all(fetches: InflightFetches[K, V]) -> None:
    """End all fetches, and wake their waiters with nothing: they ask again."""
    for fetch in fetches.running:
        fetch.discarded = True
        fetch.scope.cancel()
        fetch.done.set()
    fetches.joined.clear()


def pause_s(error: errors.ServiceError) -> float:
    """Return for how many seconds a failure answers for other attempts, too (docs/semantics.md 3.2).

    A throttled request waits in the client, for the reset of its limit.
    """
    if isinstance(error, errors.AnswerTooLarge):
        return _TOO_LARGE_S
    if isinstance(error, errors.PassingError) and not isinstance(error, errors.RateLimited):
        return min(error.retry_after_s, _MAX_PAUSE_S)
    return 0.0


def log_failure(fetch: InflightFetch[V], what: str, error: Exception, *, had_stale: bool) -> None:
    """Log a failure that the waiting operation does not log, or not with what it means. `what`: was fetched."""
    if isinstance(error, errors.Offline):
        return  # nothing failed
    if isinstance(error, errors.PassingError):
        # Without a stale value the waiting operation logs the advice.
        advice = f"; the stale one is served; {errors.what_to_do(error)}" if had_stale else ""
        log.warning("%s: %s%s", what, error, advice)
    elif not fetch.waiters:
        is_bug = not isinstance(error, errors.ArtifactfsError)
        log.warning("%s: the refresh failed: %s", what, error, exc_info=error if is_bug else None)


async def wait(fetches: InflightFetches[K, V], fetch: InflightFetch[V]) -> None:
    """Wait until a fetch is done. A first one that its last waiter gives up on is supervised from then on."""
    fetch.waiters += 1
    try:
        await fetch.done.wait()
    finally:
        fetch.waiters -= 1
        if is_abandoned(fetch) and not fetch.supervised:
            fetch.supervised = True
            fetches.nursery.start_soon(_supervise, fetches, fetch)


async def _supervise(fetches: InflightFetches[K, V], fetch: InflightFetch[V]) -> None:
    """Let a fetch without waiters go on, as long as other requests do not need its place."""
    while is_abandoned(fetch):
        await trio.sleep(_SUPERVISE_S)
        if is_abandoned(fetch) and not fetches.has_room():
            fetch.scope.cancel()
            break
    fetch.supervised = False
