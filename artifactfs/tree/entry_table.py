"""The entries of a cache: each is served until it is too stale, and the least recently used first to go.

One that is too stale, or invalid, is still the value that the next fetch of its key continues: a file that grew keeps
its inode number (docs/semantics.md 2.4), however long no program looked, or the machine slept.

cachetools.TLRUCache does the same with an object and three dicts' slots for each entry, which the garbage collector
visits: with 200,000 directories that stopped the event loop for 200 ms.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import msgspec

from artifactfs.tree.inflight_fetch import CacheEntry

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Entries that are looked at with each that is stored, whether they are to go, while all weigh more than this share of
# what they may: 150,000 files of listings.
_SWEPT, _KEPT_SHARE = 2, 1 / 8
_NEVER = float("-inf")


class EntryTable(Generic[K, V]):
    """Entries by key, with `max_weight` in all. `clock` gives seconds."""

    def __init__(self, max_weight: int, clock: Callable[[], float]) -> None:
        self._max_weight = max_weight
        self._clock = clock
        # The least recently used first.
        self._held: OrderedDict[K, CacheEntry[V]] = OrderedDict()
        self._weight = 0

    def get(self, key: K) -> CacheEntry[V] | None:
        """Return an entry that can still be served, as one that was just used."""
        entry = self._held.get(key)
        if entry is None or entry.stale_until <= self._clock():
            return None
        self._held.move_to_end(key)
        return entry

    def last(self, key: K) -> V | None:
        """Return a value, also one that can be served no more."""
        entry = self._held.get(key)
        return entry.value if entry is not None else None

    def invalidate(self, key: K) -> None:
        """Let an entry be served no more."""
        if (entry := self._held.get(key)) is not None:
            self._held[key] = msgspec.structs.replace(entry, fresh_until=_NEVER, stale_until=_NEVER)

    def is_invalid(self, key: K) -> bool:
        """Whether an entry was invalidated, and no other took its place."""
        return (entry := self._held.get(key)) is not None and entry.stale_until == _NEVER

    def __setitem__(self, key: K, entry: CacheEntry[V]) -> None:
        if entry.weight > self._max_weight:
            raise ValueError("an entry weighs more than all of them may")
        now = self._clock()
        if entry.stale_until <= now:
            return
        self.pop(key)
        for _ in range(_SWEPT if self._weight > self._max_weight * _KEPT_SHARE else 0):
            if self._held and next(iter(self._held.values())).stale_until <= now:
                self._pop_first()
        while self._weight + entry.weight > self._max_weight:
            self._pop_first()
        self._held[key] = entry
        self._weight += entry.weight

    def pop(self, key: K) -> CacheEntry[V] | None:
        """Remove an entry; returns it if it can still be served."""
        entry = self._held.pop(key, None)
        if entry is None:
            return None
        self._weight -= entry.weight
        return entry if entry.stale_until > self._clock() else None

    def __contains__(self, key: K) -> bool:
        entry = self._held.get(key)
        return entry is not None and entry.stale_until > self._clock()

    def __iter__(self) -> Iterator[K]:
        now = self._clock()
        return iter([key for key, entry in self._held.items() if entry.stale_until > now])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def weight(self) -> int:
        """The weight of all entries that can still be served."""
        now = self._clock()
        return sum(entry.weight for entry in self._held.values() if entry.stale_until > now)

    def clear(self) -> None:
        """Remove all."""
        self._held.clear()
        self._weight = 0

    def _pop_first(self) -> None:
        _, entry = self._held.popitem(last=False)
        self._weight -= entry.weight
