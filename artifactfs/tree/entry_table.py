"""The entries of a cache: each until it is too stale to be served, and the least recently used first to go.

cachetools.TLRUCache does the same with an object and three dicts' slots for each entry, which the garbage collector
visits: with 200,000 directories that stopped the event loop for 200 ms.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from artifactfs.tree.inflight_fetch import CacheEntry

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Entries that are looked at with each that is stored, whether they are to go.
_SWEPT = 2


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

    def __setitem__(self, key: K, entry: CacheEntry[V]) -> None:
        if entry.weight > self._max_weight:
            raise ValueError("an entry weighs more than all of them may")
        self.pop(key)
        now = self._clock()
        if entry.stale_until <= now:
            return
        for _ in range(_SWEPT):
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
