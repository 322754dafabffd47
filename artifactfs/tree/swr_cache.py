"""What is remembered, for how long, and what is done when it is old (semantics 3.1, 3.2).

`StaleWhileRevalidateCache` is under everything the tree knows of the service. For one key it holds a value and until
when it is fresh; equal fetches in flight are one; an absence is believed for a while of its own; an old value is served
where a fresh one cannot be had in time. A fetch runs in the mount's root nursery, so a waiter that gives up
does not end it; only where others need its place one ends that nobody waits for.
"""

import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import cachetools
import trio

from artifactfs import errors

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# How long the refresh of an old value is waited for (semantics 3.2).
REFRESH_WAIT_S = 1.0
# And the first look after somebody asked for a refresh (semantics 3.3): he wants what is there now. Arbitrary; well
# below the deadline.
ASKED_WAIT_S = 10.0
# A first fetch that everybody gave up on is looked after this often; who comes when it has taken longer asks himself.
_ABANDONED_S = 1.0
# Absences are one small record each; arbitrary.
_MAX_ABSENCES = 10_000
# Keys that are remembered as slow or failing, and for how long after that was seen last. Arbitrary.
_MAX_SICK = 1_000
_SICK_S = 600.0


@dataclass(frozen=True, slots=True)
class CacheEntry(Generic[V]):
    """A value, when it was asked for, and until when it is fresh (seconds of the cache's clock).

    `wanted`: somebody has asked for it to be refreshed (semantics 3.3).
    """

    value: V
    asked_at: float
    fresh_until: float
    stale_until: float
    wanted: bool = False


class InflightFetch(Generic[V]):
    """A fetch under way, and whoever waits for it. `first`: there is no old value."""

    def __init__(self, started: float, *, first: bool) -> None:
        self.started = started
        self.first = first
        self.waiters = 0
        # Whether somebody looks after it, since everybody gave up.
        self.looked_after = False
        self.scope = trio.CancelScope()
        # Dropped on the way: whoever waits gets what it brings, and nobody else.
        self.void = False
        self._landed = trio.Event()
        self._held: CacheEntry[V] | None = None
        self._error: BaseException | None = None

    @property
    def abandoned(self) -> bool:
        """Whether it is under way for nobody."""
        return self.first and not self.waiters and not self._landed.is_set()

    def land(self, held: CacheEntry[V] | None, error: BaseException | None) -> None:
        """Wake the waiters with a value or an exception. Never blocks."""
        if not self._landed.is_set():
            self._held, self._error = held, error
            self._landed.set()

    async def wait(self) -> CacheEntry[V]:
        """Wait for the value; raises what the fetch raised."""
        self.waiters += 1
        try:
            await self._landed.wait()
        finally:
            self.waiters -= 1
        if self._held is None:
            raise self._error or RuntimeError("a flight landed with neither a value nor an error")
        return self._held


class BackendHealth:
    """Whether the service seems to be in trouble: shared by all caches of a mount.

    Set by a refresh that failed for a passing reason or took too long, cleared by any success. While it is set, old
    values are served at once, and refreshes are tried at most every `probe_interval_s`. One sick directory is not a
    service in trouble: a key that is not known to be sick has a turn of its own, and is waited for.
    """

    def __init__(self, probe_interval_s: float = 5.0) -> None:
        self._probe_interval_s = probe_interval_s
        self._trouble = False
        # When a refresh may be tried again: of what was slow or failed of late, and of anything else.
        self._next_probe = self._next_other = 0.0
        self._sick: cachetools.LRUCache[Hashable, float] = cachetools.LRUCache(_MAX_SICK)
        # For who asks how it is: since when there is trouble, whether something failed or only took long, and whether
        # an old value was served in it; when the last was over, and how often an old value was served.
        self.trouble_since: float | None = None
        self.with_errors = False
        self.with_old = False
        self.recovered_at = float("-inf")
        self.old_served = 0
        # Somebody asked for what is there now: the first who looks may wait for it, trouble or not.
        self.patient = False

    def ok(self, key: Hashable, now: float) -> None:
        """A fetch succeeded."""
        self._sick.pop(key, None)
        if self._trouble:
            log.info("the service answers again")
            self.trouble_since, self.recovered_at = None, now
        self._trouble = False

    def failed(self, key: Hashable, now: float) -> None:
        """A fetch failed for a passing reason."""
        self._in_trouble(key, now)
        self.with_errors = True

    def slow(self, key: Hashable, now: float) -> None:
        """A refresh took longer than anybody waits."""
        self._in_trouble(key, now)

    def _in_trouble(self, key: Hashable, now: float) -> None:
        if not self._trouble:
            self._next_probe = now + self._probe_interval_s
            # Others are tried at once where it is this key again: it is known to be sick alone.
            self._next_other = now if self.is_sick(key, now) else self._next_probe
            self.trouble_since, self.with_errors, self.with_old = now, False, False
        self._trouble = True
        self._sick[key] = now

    def count_stale_served(self) -> None:
        """An old value was served in place of a new one."""
        self.old_served += 1
        self.with_old = True

    def is_degraded(self) -> bool:
        """Whether the last thing known of the service is that it does not answer."""
        return self._trouble

    def refresh_grant(self) -> bool:
        """Whether somebody who asked for what is there now may wait for it; the first one only."""
        patient, self.patient = self.patient, False
        return patient

    def is_sick(self, key: Hashable, now: float) -> bool:
        """Whether a key itself was slow, or failed, of late."""
        return now - self._sick.get(key, float("-inf")) < _SICK_S

    def try_probe(self, key: Hashable, now: float) -> bool:
        """Whether it is time to try again; if so, it is not for the next `probe_interval_s`.

        A key that is sick itself never takes the turn of others, which the service may answer.
        """
        if self.is_sick(key, now):
            if now < self._next_probe:
                return False
        elif now < self._next_other:
            return False
        else:
            self._next_other = now + self._probe_interval_s
        self._next_probe = now + self._probe_interval_s
        return True


class StaleWhileRevalidateCache(Generic[K, V]):
    """Values by key, each fresh for a time of its own.

    `what(key)` is what messages call it.
    `fetch(key, old)` asks the service, with the old value where there is one. `ttl_s(value)` is for how long a
    value is fresh, `weight(value)` what it counts against `max_weight`. A NotFound of `fetch` is an absence, believed
    for `negative_ttl_s`; any other exception goes to whoever waits and is remembered by nobody. `has_room`: whether a
    fetch takes nobody's place.
    """

    def __init__(
        self,
        what: Callable[[K], str],
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
        self._what = what
        self._fetch = fetch
        self._ttl_s = ttl_s
        self._stale_max_s = stale_max_s
        self._health = health
        # Health is shared by caches whose keys may be equal.
        self._kind = object()
        self._nursery = nursery
        self._clock = clock
        self._has_room = has_room
        self._flights: dict[K, InflightFetch[V]] = {}
        self._held: cachetools.TLRUCache[K, CacheEntry[V]] = cachetools.TLRUCache(
            maxsize=max_weight,
            ttu=lambda _key, held, _now: held.stale_until,
            timer=clock,
            getsizeof=lambda held: weight(held.value),
        )
        self._absent: cachetools.TTLCache[K, float] = cachetools.TTLCache(_MAX_ABSENCES, negative_ttl_s, timer=clock)
        self._negative_ttl_s = negative_ttl_s
        # What was asked for before this moment is old, whatever its time to live (semantics 3.3).
        self._refreshed_at = float("-inf")
        # What was asked for until this moment is not to be kept at all.
        self._forgotten_at = float("-inf")

    def left_s(self, held: CacheEntry[V]) -> float:
        """Return for how many more seconds a value is fresh; 0 for an old one."""
        if held.asked_at < self._refreshed_at:
            return 0.0
        return max(0.0, held.fresh_until - self._clock())

    def get_fresh(self, key: K) -> CacheEntry[V] | None:
        """Return a fresh value without asking anybody; None if there is none."""
        held = self._held.get(key)
        return held if held is not None and self.left_s(held) > 0 else None

    def get_any(self, key: K) -> CacheEntry[V] | None:
        """Return what is held, fresh or old, without asking anybody."""
        return self._held.get(key)

    async def refetch(self, key: K) -> CacheEntry[V]:
        """Return a value that is asked for now, or was already under way. Raises as `get` does."""
        held = self._held.get(key)
        return await self._wait(key, self._flight(key, held.value if held is not None else None))

    def __len__(self) -> int:
        return len(self._held)

    @property
    def weight(self) -> int:
        """What everything that is held weighs."""
        return int(self._held.currsize)

    def mark_stale_where(self, of: Callable[[K], bool]) -> None:
        """Make values old by their keys, and forget absences: the next look at each asks the service (3.3)."""
        self._health.patient = True
        for key in [key for key in self._held if of(key)]:
            if (held := self._held.get(key)) is not None:
                self._held[key] = replace(held, fresh_until=float("-inf"), wanted=True)
        for key in {*filter(of, list(self._absent)), *filter(of, list(self._flights))}:
            self._ask_anew(key)

    def forget(self, key: K) -> None:
        """Forget a value, but not what is under way: the next look asks."""
        self._held.pop(key, None)

    async def get(self, key: K) -> CacheEntry[V]:
        """Return a value: fresh, or old where a refresh fails for a passing reason or takes too long.

        Raises NoSuchEntry with the time that the absence may be believed, or what `fetch` raised.
        """
        held = self._held.get(key)
        if held is not None and self.left_s(held) > 0:
            return held
        if (absent_until := self._absent.get(key)) is not None:
            raise errors.NoSuchEntry(f"{self._what(key)}: not there", max(0.0, absent_until - self._clock()))
        if held is None:
            return await self._wait(key, self._flight(key, None))
        return await self._refresh(key, held)

    def put(self, key: K, value: V, asked_at: float) -> CacheEntry[V]:
        """Take note of a value that came by another way, in an answer that was asked for at `asked_at`."""
        if asked_at <= self._forgotten_at:
            return self._holding(value, asked_at)
        return self._store(key, value, asked_at)

    def doubt(self, key: K) -> None:
        """Make a value old, and forget an absence: the next look asks, and has the old one if that fails (3.2)."""
        if (held := self._held.get(key)) is not None:
            self._held[key] = replace(held, fresh_until=float("-inf"))
        self._ask_anew(key)

    def drop(self, key: K) -> None:
        """Forget a value and an absence: the next look asks."""
        self._held.pop(key, None)
        self._ask_anew(key)

    def _ask_anew(self, key: K) -> None:
        self._absent.pop(key, None)
        if (flight := self._flights.pop(key, None)) is not None:
            flight.void = True

    def expire(self) -> None:
        """Make everything old: the next look at each asks the service (semantics 3.3)."""
        self._health.patient = True
        self._refreshed_at = self._clock()
        self._absent.clear()

    def clear(self) -> None:
        """Forget everything, and what is under way: whoever waits gets it, and nobody else."""
        self._forgotten_at = self._clock()
        self._held.clear()
        self._absent.clear()
        for flight in self._flights.values():
            flight.void = True
        self._flights.clear()

    async def _refresh(self, key: K, held: CacheEntry[V]) -> CacheEntry[V]:
        now = self._clock()
        wanted = held.wanted or held.asked_at < self._refreshed_at
        wait_s = ASKED_WAIT_S if wanted else REFRESH_WAIT_S
        patient = wanted and self._health.refresh_grant()
        if self._health.is_degraded() and not patient:
            if key not in self._flights and not self._health.try_probe((self._kind, key), now):
                return self._old(held)
            wait_s = 0.0 if self._health.is_sick((self._kind, key), now) else min(wait_s, REFRESH_WAIT_S)
        flight = self._flight(key, held.value)
        # Whoever comes later waits only for what is left of the first one's second.
        wait_s = max(0.0, wait_s - (now - flight.started))
        with trio.move_on_after(wait_s):
            try:
                return await self._wait(key, flight)
            except errors.PassingError:
                return self._old(held)  # the flight itself has said so in the log
        self._health.slow((self._kind, key), self._clock())
        return self._old(held)

    def _old(self, held: CacheEntry[V]) -> CacheEntry[V]:
        self._health.count_stale_served()
        return held

    async def _wait(self, key: K, flight: InflightFetch[V]) -> CacheEntry[V]:
        try:
            return await flight.wait()
        except errors.NotFound as error:
            raise errors.NoSuchEntry(str(error), self._negative_ttl_s if key in self._absent else 0.0) from error
        finally:
            if flight.abandoned and not flight.looked_after:
                flight.looked_after = True
                self._nursery.start_soon(self._look_after, flight)

    async def _look_after(self, flight: InflightFetch[V]) -> None:
        """Let a fetch that everybody gave up on go on, as long as others do not need its place."""
        while flight.abandoned:
            await trio.sleep(_ABANDONED_S)
            if flight.abandoned and not self._has_room():
                flight.scope.cancel()
                break
        flight.looked_after = False

    def _flight(self, key: K, old: V | None) -> InflightFetch[V]:
        flight = self._flights.get(key)
        now = self._clock()
        # One that took off before a refresh was asked for may bring what that refresh is to replace. And one that
        # others gave up on may be stuck.
        if (
            flight is None
            or flight.started < self._refreshed_at
            or (flight.abandoned and now - flight.started > _ABANDONED_S)
        ):
            flight = self._flights[key] = InflightFetch(now, first=old is None)
            self._nursery.start_soon(self._fly, key, flight, old)
        return flight

    async def _fly(self, key: K, flight: InflightFetch[V], old: V | None) -> None:
        held: CacheEntry[V] | None = None
        error: BaseException | None = None
        try:
            with flight.scope:
                value = await self._fetch(key, old)
                held = self._holding(value, flight.started) if flight.void else self._store(key, value, flight.started)
                self._health.ok((self._kind, key), self._clock())
            if flight.scope.cancelled_caught:
                error = errors.PassingError("others needed its place")
        except Exception as caught:  # whoever waits gets it, and its guard logs it if it is a bug
            error = caught
            self._note_failure(key, flight, caught, old is not None)
        except BaseException:
            # Cancelled: but whoever waits is not, and a foreign Cancelled would end more than its call.
            error = errors.PassingError("the mount is ending")
            raise
        finally:
            # Also when cancelled: a leader that dies wakes its followers.
            if (current := self._flights.get(key)) is flight:
                del self._flights[key]
            elif current is not None and held is not None and not flight.void and flight.started >= self._refreshed_at:
                # It was thought stuck, and is first all the same.
                del self._flights[key]
                current.land(held, None)
            flight.land(held, error)

    def _store(self, key: K, value: V, asked_at: float) -> CacheEntry[V]:
        held = self._holding(value, asked_at)
        known = self._held.get(key)
        if known is None or known.asked_at <= asked_at:
            self._held[key] = held
        self._absent.pop(key, None)
        return held

    def _holding(self, value: V, asked_at: float) -> CacheEntry[V]:
        fresh_until = asked_at + self._ttl_s(value)
        return CacheEntry(value, asked_at, fresh_until, fresh_until + self._stale_max_s)

    def _note_failure(self, key: K, flight: InflightFetch[V], error: Exception, had_old: bool) -> None:
        if isinstance(error, errors.NotFound):
            self._health.ok((self._kind, key), self._clock())
            known = self._held.get(key)
            if (
                flight.void
                or flight.started < self._refreshed_at
                or (known is not None and known.asked_at > flight.started)
            ):
                return  # what was asked for later says, or will say, what is there
            self._held.pop(key, None)
            self._absent[key] = self._clock() + self._negative_ttl_s
        elif isinstance(error, errors.PassingError):
            # Without a stale value the waiting operation says what to do.
            if had_old:
                log.warning("%s: %s; the old one is served; %s", self._what(key), error, errors.what_to_do(error))
            else:
                log.warning("%s: %s", self._what(key), error)
            self._health.failed((self._kind, key), self._clock())
        elif not flight.waiters:
            log.warning(
                "%s: the refresh failed: %s",
                self._what(key),
                error,
                exc_info=not isinstance(error, errors.ArtifactfsError),
            )


@dataclass(frozen=True)
class Caches:
    """Makes the caches of one mount, with what they share: see FreshCache."""

    negative_ttl_s: float
    stale_max_s: float
    nursery: trio.Nursery
    clock: Callable[[], float]
    has_room: Callable[[], bool]
    health: BackendHealth = field(default_factory=BackendHealth)

    def make(
        self,
        what: Callable[[K], str],
        *,
        fetch: Callable[[K, V | None], Awaitable[V]],
        ttl_s: Callable[[V], float],
        weight: Callable[[V], int] = lambda _value: 1,
        max_weight: int,
    ) -> StaleWhileRevalidateCache[K, V]:
        """Return a cache of a kind of its own."""
        return StaleWhileRevalidateCache(
            what,
            fetch=fetch,
            ttl_s=ttl_s,
            weight=weight,
            max_weight=max_weight,
            negative_ttl_s=self.negative_ttl_s,
            stale_max_s=self.stale_max_s,
            health=self.health,
            nursery=self.nursery,
            clock=self.clock,
            has_room=self.has_room,
        )
