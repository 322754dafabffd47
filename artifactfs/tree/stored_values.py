"""The values of the tree's caches in the metadata store, which outlives the mount (docs/semantics.md 8).

Owns the form of rows and pages there. A stored value is stale when it is read: it is requested again, and served where
that fails (8.2). stored_listings.py has the listings of directories, which may be better than that.
"""

from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import cachetools
import msgspec

from artifactfs.domain import RunDetails, RunRecord
from artifactfs.metadata.write_behind import Encode, Name, WriteBehind
from artifactfs.util.clock import WallTimes

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)

_STALE = float("-inf")
# An equal value is stored again after this, or an eighth of what a stale one is served for: else one that was confirmed
# a minute ago would be too old for the next mount. Arbitrary.
_AGAIN_S, _AGAIN_SHARE = 300.0, 8
_MAX_SAVED = 10_000

_details = msgspec.json.Decoder(RunDetails)


class RecalledValue(msgspec.Struct, Generic[V], frozen=True):
    """A value from the store. `fresh_until` (seconds of the cache's clock): in the past for a stale one.

    `requested_at`: by the cache's clock, when it was requested, or what confirms it was. `neighbours`: what was read
    with it, by key.
    """

    value: V
    requested_at: float
    fresh_until: float = _STALE
    refresh_requested: bool = False
    neighbours: tuple[tuple[Any, "RecalledValue[V]"], ...] = ()


class StoredCache(Protocol[K_contra, V]):
    """The values of one cache in the metadata store: `StoredValues`, or `stored_listings.StoredListings`."""

    async def recall(self, key: K_contra) -> RecalledValue[V] | None:
        """Return a stored value; None if there is none. Raises ServiceError where one must be confirmed."""

    def save(self, key: K_contra, value: V, before: V | None, requested_at: float, is_stale: bool) -> None:
        """Store a value, which takes the place of the value `before` in the cache. `is_stale`: when it is read, too."""

    def remove(self, key: K_contra) -> None:
        """Remove a value, which is no more."""

    def mark_stale(self, key: K_contra) -> None:
        """Let a value be stale when it is read."""


class StoredValues(Generic[K, V]):
    """The values of one cache, each a record of its own.

    `kind`, `name_of(key)`: the kind of record, and run id and key in it. `form`: the type that values are encoded as,
    `to_form` makes that of one. `fresh_s`: for how long a value counts as fresh from when it is read. `stale_max_s`:
    for how long a stale one is served. `clock` gives the cache's seconds.
    """

    def __init__(
        self,
        store: WriteBehind,
        kind: str,
        form: Any,
        *,
        name_of: Callable[[K], tuple[int, bytes]],
        clock: Callable[[], float],
        times: WallTimes,
        stale_max_s: float,
        to_form: Callable[[V], object] = lambda value: value,
        fresh_s: float = 0.0,
    ) -> None:
        self._store = store
        self._kind = kind
        self._name_of = name_of
        self._clock = clock
        self._times = times
        self._to_form = to_form
        self._fresh_s = fresh_s
        self._again_s = min(_AGAIN_S, stale_max_s / _AGAIN_SHARE)
        # The values that were stored last: when each was requested, and the store's epoch then.
        self._saved: cachetools.LRUCache[K, tuple[float, int]] = cachetools.LRUCache(_MAX_SAVED)
        self._encoder, self._decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(form)

    async def recall(self, key: K) -> RecalledValue[V] | None:
        """Return a stored value, which is stale or fresh for `fresh_s`; None if there is none."""
        if not (found := await self._store.load(self._name(key))):
            return None
        record = found[0]
        try:
            value = self._decoder.decode(record.value)
        except msgspec.MsgspecError:
            return None  # of another version of artifactfs
        now = self._clock()
        age_s = self._times.age_s(record.requested_at, now)
        fresh_until = now + self._fresh_s if self._fresh_s and not record.is_stale else _STALE
        return RecalledValue(value, now if fresh_until > now else now - age_s, fresh_until)

    def save(self, key: K, value: V, before: V | None, requested_at: float, is_stale: bool) -> None:
        """Store a value, unless an equal one was stored a moment ago, and is there still."""
        saved_at, epoch = self._saved.get(key, (_STALE, -1))
        is_there = epoch == self._store.epoch and requested_at < saved_at + self._again_s
        if value == before and is_there and not is_stale:
            return
        self._saved[key] = requested_at, self._store.epoch
        encoder, to_form = self._encoder, self._to_form

        def freeze() -> Encode:
            return lambda: _encoded(encoder, to_form, value)

        self._store.put(self._name(key), self._times.of(requested_at), freeze, is_stale=is_stale)

    def remove(self, key: K) -> None:
        """Remove a value; with a run's row all that is stored of the run."""
        kind, run_id, its_key = self._name(key)
        if run_id:
            self._store.remove(run_id)
        else:
            self._store.remove(run_id, kind, its_key)

    def mark_stale(self, key: K) -> None:
        """Let a value be stale when it is read."""
        kind, run_id, its_key = self._name(key)
        self._store.mark_stale(run_id, kind, its_key)

    def _name(self, key: K) -> Name:
        return (self._kind, *self._name_of(key))


class StoredKinds(msgspec.Struct, frozen=True):
    """Makes the StoredValues of one mount's caches, which share the fields below."""

    store: WriteBehind
    clock: Callable[[], float]
    times: WallTimes
    stale_max_s: float

    def __call__(
        self,
        kind: str,
        form: Any,
        name_of: Callable[[K], tuple[int, bytes]],
        *,
        to_form: Callable[[V], object] = lambda value: value,
        fresh_s: float = 0.0,
    ) -> StoredValues[K, V]:
        """Return the stored values of a cache; the arguments are those of `StoredValues`."""
        return StoredValues(
            self.store,
            kind,
            form,
            name_of=name_of,
            clock=self.clock,
            times=self.times,
            stale_max_s=self.stale_max_s,
            to_form=to_form,
            fresh_s=fresh_s,
        )


def without_urls(records: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
    """Return the rows of a list as they are stored: without the addresses that they name."""
    return tuple(
        msgspec.structs.replace(
            record,
            details=msgspec.json.encode(msgspec.structs.replace(_details.decode(record.details), external_url=None)),
        )
        for record in records
    )


def _encoded(encoder: msgspec.msgpack.Encoder, to_form: Callable[[V], object], value: V) -> bytes | None:
    try:
        return encoder.encode(to_form(value))
    except (OverflowError, ValueError, msgspec.MsgspecError):
        return None  # a number, or a lone surrogate, that has no form there
