"""A cache that serves stale values while it revalidates them, with single flight (docs/semantics.md 3.1, 3.2).

Everything that the tree remembers of the service is in a `StaleWhileRevalidateCache`. A fetch runs in the mount's root
nursery, so a waiter that gives up does not end it; a fetch without waiters ends only if other requests need its place.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import cachetools
import msgspec
import trio

from artifactfs import errors
from artifactfs.tree import inflight_fetch, invalidation_times
from artifactfs.tree.backend_health import BackendHealth
from artifactfs.tree.entry_table import EntryTable
from artifactfs.tree.inflight_fetch import CacheEntry, InflightFetch, InflightFetches
from artifactfs.tree.invalidation_times import InvalidationTimes
from artifactfs.tree.stored_values import RecalledValue, StoredCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# How long a caller waits for the refresh of a stale value (docs/semantics.md 3.2).
REFRESH_WAIT_S = 1.0
# The same for a refresh that the user requested (docs/semantics.md 3.3). Arbitrary; well below the deadline.
REQUESTED_WAIT_S = 10.0
# For how long a value counts as fresh while the mount is offline: the kernel asks again soon, so that it sees what the
# service has once that answers (docs/semantics.md 8.3).
_OFFLINE_S = 2.0
# Negative entries, one small record each, and pauses. Arbitrary.
_MAX_ABSENCES, _MAX_PAUSES = 10_000, 1_000


class StaleWhileRevalidateCache(Generic[K, V]):
    """Values by key, each fresh for a time of its own. A key is in one of four states, and a fetch may be in flight:

    state     | meaning                                      | get_fresh | get_any | get
    ----------|----------------------------------------------|-----------|---------|-----------------------------------
    fresh     | within its time to live                      | the entry | entry   | the entry
    stale     | past that, or marked stale (`stale_max_s`)   | None      | entry   | refreshes; else the stale entry
    invalid   | no entry                                     | None      | None    | fetches
    absent    | NotFound, less than `negative_ttl_s` ago     | None      | None    | raises NoSuchEntry
    paused    | invalid or stale; a failure that pauses the  | None      | as that | raises it, or has the stale entry
              | key (`pause_s`)                              |           |         | if it may pass; `refetch` raises it
    in flight | single flight: `refetch` and `get` join it, unless `get` has a fresh entry or an absence
    stored    | invalid here, and in the metadata    | None      | None    | becomes fresh or stale (`recall`), as
              | store, where there is one            |           |         | the store says; then as above

    To fresh: `store`, or a fetch that succeeds. To absent: a fetch that raises NotFound.
    To stale: time, `expire`, `mark_stale`, `mark_stale_where`, `mark_all_stale`; an absence becomes invalid instead.
    All but the first two end a pause.
    To invalid: `invalidate`, `clear`, more time; `evict`, which leaves an absence.
    Fetches in flight are discarded by `mark_stale`, `mark_stale_where` and `invalidate`: their waiters get the result,
    and it is not stored; nor is any other value that was requested before. After `mark_all_stale` they are joined no
    more. `clear` ends them: their waiters ask again.

    `describe(key)` names a key in messages. `fetch(key, old)` asks the service; `old`: the last value, which may be too
    old to be served, or invalid. `ttl_s(value)` is for how long a value is fresh, `weight(value)` counts against
    `max_weight`. Exceptions of `fetch` go to the waiters. `has_room`: whether a fetch takes no other's place.
    """

    def __init__(
        self,
        describe: Callable[[K], str],
        *,
        fetch: Callable[[K, V | None], Awaitable[V]],
        ttl_s: Callable[[V], float],
        weight: Callable[[V], int],
        max_weight: int,
        negative_ttl_s: float,
        stale_max_s: float,
        health: BackendHealth,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._describe = describe
        self._fetch = fetch
        self._ttl_s = ttl_s
        self._stale_max_s = stale_max_s
        self._health = health
        # All caches share the health, and their keys may be equal.
        self._kind = object()
        self._nursery = nursery
        self._clock = clock
        self._inflight: InflightFetches[K, V] = InflightFetches(nursery, has_room)
        self._weight = weight
        self._entries: EntryTable[K, V] = EntryTable(max_weight, clock)
        self._absent: cachetools.TTLCache[K, float] = cachetools.TTLCache(_MAX_ABSENCES, negative_ttl_s, timer=clock)
        self._negative_ttl_s = negative_ttl_s
        self._paused: cachetools.TLRUCache[K, errors.ServiceError] = cachetools.TLRUCache(
            _MAX_PAUSES, lambda _key, error, now: now + inflight_fetch.pause_s(error), timer=clock
        )
        # What outlives the mount, if anything does: each value that is stored here is stored there, too.
        self.stored: StoredCache[K, V] | None = None
        # Counts what a value that is being recalled may not survive.
        self._removals = 0
        # Called with a key that was found absent, and when that was requested. They must not raise.
        self.on_absent: list[Callable[[K, float], None]] = []
        # Called with a key, its value before (None: none, or recalled), and the one from now on. They must not raise.
        self.on_entry: list[Callable[[K, V | None, V], None]] = []
        # Values requested before this moment are stale, whatever their time to live (docs/semantics.md 3.3).
        self._all_stale_at = float("-inf")
        # Values of keys that were requested before are not stored.
        self._invalidated: InvalidationTimes[K] = InvalidationTimes()
        # Nor is what was requested until this moment. How often that was: what waited meanwhile asks again.
        self._cleared_at, self._clears = float("-inf"), 0

    def ttl_left_s(self, entry: CacheEntry[V]) -> float:
        """Return for how many more seconds an entry is fresh; 0 for a stale one."""
        if self._health.is_offline:
            return _OFFLINE_S
        if entry.requested_at < self._all_stale_at:
            return 0.0
        return max(0.0, entry.fresh_until - self._clock())

    def get_fresh(self, key: K) -> CacheEntry[V] | None:
        """Return a fresh entry without a request; None if there is none."""
        entry = self._entries.get(key)
        if entry is None or self._health.is_offline:
            return entry
        if entry.requested_at < self._all_stale_at or entry.fresh_until <= self._clock():
            return None
        return entry

    def get_any(self, key: K) -> CacheEntry[V] | None:
        """Return the entry, fresh or stale, without a request; None if there is none."""
        return self._entries.get(key)

    def last_value(self, key: K) -> V | None:
        """Return the value that the next one continues: also one that is too old to be served, or invalid."""
        return self._entries.last(key)

    async def refetch(self, key: K) -> CacheEntry[V]:
        """Return the entry of a fetch that starts now, or is in flight already. Raises as `get` does."""
        entry = self._entries.get(key)
        return await self._wait_for(key, self._join_or_start(key, entry.value if entry is not None else None))

    async def recall_fresh(self, key: K) -> CacheEntry[V]:
        """Return a fresh entry, here or stored, or that of a fetch as `refetch` does: no stale one is served."""
        held = await self.recall(key)
        return held if held is not None and self.ttl_left_s(held) > 0 else await self.refetch(key)

    def is_quiet(self, key: K) -> bool:
        """Whether no fetch is in flight, no absence is known, and no value was invalidated."""
        return not (key in self._inflight.joined or key in self._absent or self._entries.is_invalid(key))

    def may_revalidate(self, key: K) -> bool:
        """Whether a fresh entry may be fetched again: not while the service is in trouble, but for a probe."""
        return not self._health.is_degraded or self._health.try_probe((self._kind, key), self._clock())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int:
        """The weight of all entries."""
        return self._entries.weight

    def mark_stale_where(self, applies: Callable[[K], bool]) -> None:
        """Request a refresh of keys: their entries are stale, their absences gone (docs/semantics.md 3.3)."""
        self._health.grants_refresh = True
        for key in [key for key in self._entries if applies(key)]:
            if (entry := self._entries.get(key)) is not None:
                self._entries[key] = msgspec.structs.replace(entry, fresh_until=float("-inf"), refresh_requested=True)
        invalidation_times.add_where(self._invalidated, applies, self._clock())
        for key in set(filter(applies, (*self._absent, *self._paused, *self._inflight.joined))):
            self._discard(key)
        self._removals += 1

    def evict(self, key: K) -> None:
        """Remove an entry, and leave a fetch in flight alone."""
        self._entries.pop(key)
        self._remove_stored(key)

    async def recall(self, key: K) -> CacheEntry[V] | None:
        """Return the entry, or else the stored one, which becomes the entry; None if there is neither."""
        if (held := self._entries.get(key)) is not None or self.stored is None:
            return held
        if key in self._inflight.joined or self._entries.is_invalid(key):
            return None
        removals, recalled = self._removals, await self.stored.recall(key)
        if recalled is not None and removals == self._removals:
            for each, its_value in (*recalled.neighbours, (key, recalled)):
                if self.is_quiet(each) and each not in self._entries:
                    self._restore(each, its_value)
        return self._entries.get(key)

    def _restore(self, key: K, recalled: RecalledValue[V]) -> None:
        """Make a stored value the entry."""
        value, requested_at, fresh_until = recalled.value, recalled.requested_at, recalled.fresh_until
        stale_until = max(requested_at + self._ttl_s(value), fresh_until) + self._stale_max_s
        stale_until = float("inf") if self._health.is_offline else stale_until
        is_requested, weight = recalled.refresh_requested, self._weight(value)
        self._entries[key] = CacheEntry(value, requested_at, fresh_until, stale_until, is_requested, weight)
        for on_entry in self.on_entry:
            on_entry(key, None, value)

    def save_again(self, key: K) -> None:
        """Store an entry whose value was changed in place."""
        if self.stored is not None and (entry := self._entries.get(key)) is not None:
            is_stale = entry.refresh_requested or entry.requested_at < self._all_stale_at
            self.stored.save(key, entry.value, None, entry.requested_at, is_stale)

    async def get(self, key: K) -> CacheEntry[V]:
        """Return a fresh entry, or a stale one if its refresh fails for a passing reason or takes too long.

        Raises NoSuchEntry with the time for which the absence is cached, or the exception of `fetch`.
        """
        entry = self._entries.get(key)
        if entry is not None and self.ttl_left_s(entry) > 0:
            return entry
        if (absent_until := self._absent.get(key)) is not None:
            raise errors.NoSuchEntry(f"{self._describe(key)}: not there", max(0.0, absent_until - self._clock()))
        if entry is None and (entry := await self.recall(key)) is not None and self.ttl_left_s(entry) > 0:
            return entry
        if entry is None:
            return await self._wait_for(key, self._join_or_start(key, None))
        clears, held = self._clears, await self._refresh(key, entry)
        # A stale value from before may be another account's.
        return held if self._clears == clears else await self.get(key)

    def store(self, key: K, value: V, requested_at: float) -> CacheEntry[V]:
        """Store a value from another answer, which was requested at `requested_at`, unless that is outdated."""
        if self.is_outdated(key, requested_at):
            return self._entry(value, requested_at)
        return self._store_newer(key, value, requested_at, None)

    def is_outdated(self, key: K, requested_at: float) -> bool:
        """Whether a key was marked stale, invalidated or found absent after an answer was requested."""
        is_cleared = requested_at <= self._cleared_at
        return is_cleared or invalidation_times.is_outdated(self._invalidated, key, requested_at)

    def mark_stale(self, key: K) -> None:
        """Make an entry stale, and end an absence: the next `get` asks, and has the stale entry if that fails (3.2)."""
        if key in self._entries:
            self.expire(key)
        elif self.stored is not None:
            self.stored.mark_stale(key)
        self._removals += 1
        self._invalidate(key)

    def expire(self, key: K) -> None:
        """Make an entry stale, as if its time were over: what was requested before is as good as anything."""
        if (entry := self._entries.get(key)) is not None:
            self._entries[key] = msgspec.structs.replace(entry, fresh_until=float("-inf"))

    def invalidate(self, key: K) -> None:
        """Remove an entry and an absence: the next `get` asks. The fetch still gets the value, which is not served."""
        self._entries.invalidate(key)
        self._remove_stored(key)
        self._invalidate(key)

    def _remove_stored(self, key: K) -> None:
        self._removals += 1
        if self.stored is not None:
            self.stored.remove(key)

    def _invalidate(self, key: K) -> None:
        invalidation_times.add(self._invalidated, key, self._clock())
        self._discard(key)

    def _discard(self, key: K) -> None:
        self._absent.pop(key, None)
        self._paused.pop(key, None)
        inflight_fetch.discard(self._inflight, key)

    def mark_all_stale(self) -> None:
        """Request a refresh of everything (docs/semantics.md 3.3)."""
        self._health.grants_refresh = True
        self._all_stale_at = self._clock()
        self._removals += 1
        self._absent.clear()
        self._paused.clear()

    def clear(self) -> None:
        """Remove everything but what is stored, and let what is being fetched be asked for again."""
        self._removals, self._clears = self._removals + 1, self._clears + 1
        self._cleared_at = self._clock()
        self._entries.clear()
        self._absent.clear()
        self._paused.clear()
        inflight_fetch.cancel_all(self._inflight)

    async def _refresh(self, key: K, entry: CacheEntry[V]) -> CacheEntry[V]:
        now, health_key = self._clock(), (self._kind, key)
        requested = entry.refresh_requested or entry.requested_at < self._all_stale_at
        wait_s = REQUESTED_WAIT_S if requested else REFRESH_WAIT_S
        granted = requested and self._health.refresh_grant()
        if self._health.is_degraded and not granted:
            if key not in self._inflight.joined and not self._health.try_probe(health_key, now):
                return self._serve_stale(entry)
            wait_s = 0.0 if self._health.is_failing(health_key, now) else min(wait_s, REFRESH_WAIT_S)
        try:
            fetch = self._join_or_start(key, entry.value)
        except errors.PassingError:
            return self._serve_stale(entry)  # Retry-After
        # The wait counts from the start of the fetch, so that later callers do not wait a second each.
        wait_s = max(0.0, wait_s - (now - fetch.started))
        with trio.move_on_after(wait_s):
            try:
                return await self._wait_for(key, fetch)
            except errors.PassingError:
                return self._serve_stale(entry)  # the fetch has logged it
        self._health.on_timeout(health_key, self._clock())
        return self._serve_stale(entry)

    def _serve_stale(self, entry: CacheEntry[V]) -> CacheEntry[V]:
        self._health.count_stale_served()
        return entry

    async def _wait_for(self, key: K, fetch: InflightFetch[V]) -> CacheEntry[V]:
        clears = self._clears
        try:
            await inflight_fetch.wait(self._inflight, fetch)
            if self._clears != clears:
                return await self._wait_for(key, self._join_or_start(key, None))
            return inflight_fetch.outcome(fetch)
        except errors.NotFound as error:
            raise errors.NoSuchEntry(str(error), self._negative_ttl_s if key in self._absent else 0.0) from error

    def _join_or_start(self, key: K, stale: V | None) -> InflightFetch[V]:
        now = self._clock()
        # The result of a fetch that started before a refresh was requested may be stale.
        if (fetch := inflight_fetch.to_join(self._inflight, key, now, self._all_stale_at)) is None:
            if (failure := self._paused.get(key)) is not None:
                # Not one traceback on top of the other, with all that their frames hold.
                raise failure.with_traceback(None)
            fetch = inflight_fetch.start(self._inflight, key, now, first=stale is None)
            self._nursery.start_soon(self._run_fetch, key, fetch, stale)
        return fetch

    async def _run_fetch(self, key: K, fetch: InflightFetch[V], stale: V | None) -> None:
        entry: CacheEntry[V] | None = None
        error: BaseException | None = None
        try:
            with fetch.scope:
                old = self._entries.last(key) if stale is None else stale
                value = await self._fetch(key, old)
                if fetch.discarded or invalidation_times.is_outdated(self._invalidated, key, fetch.started):
                    entry = self._entry(value, fetch.started)
                else:
                    entry = self._store_newer(key, value, fetch.started, old)
                if self._health.has_failures:
                    self._health.on_success((self._kind, key), self._clock())
            if fetch.scope.cancelled_caught:
                error = errors.PassingError("other requests needed its place")
        except Exception as caught:  # the waiters get it, and their error boundary logs a bug
            error = caught
            self._note_failure(key, fetch, caught, stale is not None)
        except BaseException:
            # Cancelled: the waiters are not, and a foreign Cancelled would end more than their calls.
            error = errors.PassingError("the mount is ending")
            raise
        finally:
            # Also when cancelled: a fetch that ends wakes its waiters.
            inflight_fetch.end(self._inflight, key, fetch, entry, error, counts=not self._is_outdated(key, fetch))

    def _is_outdated(self, key: K, fetch: InflightFetch[V]) -> bool:
        is_invalidated = invalidation_times.is_outdated(self._invalidated, key, fetch.started)
        return fetch.discarded or is_invalidated or fetch.started < self._all_stale_at

    def _store_newer(self, key: K, value: V, requested_at: float, old: V | None) -> CacheEntry[V]:
        entry, known = self._entry(value, requested_at), self._entries.get(key)
        if known is None or known.requested_at <= requested_at:
            before = last if (last := self._entries.last(key)) is not None else old
            self._entries[key] = entry
            if self.stored is not None:
                last = known.value if known is not None else None
                self.stored.save(key, value, last, requested_at, requested_at < self._all_stale_at)
            for on_entry in self.on_entry:
                on_entry(key, before, value)
        self._absent.pop(key, None)
        self._paused.pop(key, None)
        return entry

    def _entry(self, value: V, requested_at: float) -> CacheEntry[V]:
        fresh_until = requested_at + self._ttl_s(value)
        return CacheEntry(value, requested_at, fresh_until, fresh_until + self._stale_max_s, weight=self._weight(value))

    def _note_failure(self, key: K, fetch: InflightFetch[V], error: Exception, had_stale: bool) -> None:
        if isinstance(error, errors.NotFound):
            self._health.on_success((self._kind, key), self._clock())
            known = self._entries.get(key)
            if self._is_outdated(key, fetch) or (known is not None and known.requested_at > fetch.started):
                return  # a later request decides
            self._entries.pop(key)
            self._remove_stored(key)
            self._absent[key] = self._clock() + self._negative_ttl_s
            invalidation_times.add(self._invalidated, key, fetch.started)
            for on_absent in self.on_absent:
                on_absent(key, fetch.started)
            return
        if isinstance(error, errors.PassingError) and not isinstance(error, errors.Offline):
            self._health.on_failure((self._kind, key), self._clock())
        if isinstance(error, errors.ServiceError) and not self._is_outdated(key, fetch):
            self._paused[key] = error
        inflight_fetch.log_failure(fetch, self._describe(key), error, had_stale=had_stale)
