"""Blocks in memory, bounded for the whole mount. All of it is synchronous.

A block may be there in part: what is there never changes. A view keeps its bytes alive after the pool has evicted the
block.
"""

from collections import Counter
from collections.abc import Callable

from artifactfs.content.block_buffers import Buffer


class MemoryBlock:
    """A block in a buffer that may be longer: its first `filled` bytes, or the bytes in `parts`, as (start, end)."""

    __slots__ = ("data", "parts")

    def __init__(self, data: Buffer, filled: int) -> None:
        self.data = data
        # In order; they neither meet nor overlap.
        self.parts = [(0, filled)] if filled else []

    @property
    def filled(self) -> int:
        """The number of bytes that are there from the block's start on."""
        return self.end_from(0)

    @property
    def count(self) -> int:
        """The number of bytes that are there."""
        return sum(end - start for start, end in self.parts)

    def end_from(self, start: int) -> int:
        """Return the offset up to which all bytes from `start` on are there."""
        for first, end in self.parts:
            if first <= start < end:
                return end
        return start

    def next_from(self, start: int) -> int | None:
        """Return the offset at which the first part behind `start` begins."""
        return next((first for first, _ in self.parts if first > start), None)

    def differs(self, start: int, view: memoryview) -> bool:
        """Whether bytes that would be put at `start` contradict those that are there."""
        for first, last in self.parts:
            first, last = max(first, start), min(last, start + len(view))
            if first < last and memoryview(self.data)[first:last] != view[first - start : last - start]:
                return True
        return False

    def fill(self, start: int, view: memoryview) -> None:
        """Put bytes at `start`, where there are none yet: those that are there may be in a reader's view."""
        for at, end in self._gaps(start, start + len(view)):
            self.data[at:end] = view[at - start : end - start]
            self._add(at, end)

    def mark(self, start: int, end: int) -> None:
        """Take note that bytes [start, end) are there: they were received into the buffer itself."""
        for gap in self._gaps(start, end):
            self._add(*gap)

    def _gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return what is not there of [start, stop)."""
        gaps = []
        while start < stop:
            if (reached := self.end_from(start)) > start:
                start = reached
                continue
            following = self.next_from(start)
            end = stop if following is None else min(stop, following)
            gaps.append((start, end))
            start = end
        return gaps

    def _add(self, start: int, end: int) -> None:
        parts = self.parts
        if parts and parts[-1][1] == start:
            parts[-1] = parts[-1][0], end
            return
        merged: list[tuple[int, int]] = []
        for part in sorted([*parts, (start, end)]):
            if merged and merged[-1][1] == part[0]:
                merged[-1] = merged[-1][0], part[1]
            else:
                merged.append(part)
        self.parts = merged


_Place = tuple[bytes, int]


class BlockPool:
    """Blocks by (version's key, index), with at most `max_bytes` of buffers, except for one block that is waited for.

    Read-ahead stays until it is read, unless it takes up most of the room: if it were evicted, it would be fetched
    again, and from a server without ranges with everything before it. Other blocks are evicted first in, first out:
    the kernel has them too.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._blocks: dict[_Place, MemoryBlock] = {}
        # Read-ahead that was not read yet: its blocks, their bytes, and their number for each version.
        self._unread: dict[_Place, MemoryBlock] = {}
        self.unread_bytes = 0
        self._unread_of: Counter[bytes] = Counter()

    @property
    def readers_ahead_of(self) -> int:
        """The number of versions with read-ahead in the pool."""
        return len(self._unread_of)

    @property
    def readahead_capacity(self) -> int:
        """Bytes that may still be fetched ahead before other read-ahead is evicted."""
        return max(0, self.max_bytes * 7 // 8 - self.unread_bytes)

    def get(self, key: bytes, index: int) -> MemoryBlock | None:
        """Return a block."""
        return self._blocks.get((key, index)) or self._unread.get((key, index))

    def held_bytes(self, key: bytes) -> int:
        """Return the bytes of a version in the pool."""
        return sum((self._blocks.get(place) or self._unread[place]).count for place in self._of(key))

    def indices(self, key: bytes) -> list[int]:
        """Return the indices of a version's blocks in the pool."""
        return [index for _, index in self._of(key)]

    def put(self, key: bytes, index: int, block: MemoryBlock, *, ahead: bool = False) -> None:
        """Add a block, unless more of it is there already; evicts others to make room. `ahead`: it is read-ahead."""
        place = key, index
        old = self.get(key, index)
        if old is not None:
            if old.count > block.count:
                return
            self._evict(place)
        self.size_bytes += len(block.data)
        if ahead:
            self._unread[place] = block
            self.unread_bytes += len(block.data)
            self._unread_of[key] += 1
            while not self.readahead_capacity and len(self._unread) > 1:
                self.mark_read(*next(iter(self._unread)))
        else:
            self._blocks[place] = block
        while self.size_bytes > self.max_bytes and len(self._blocks) > (not ahead):
            self._evict(next(iter(self._blocks)))

    def mark_read(self, key: bytes, index: int) -> None:
        """A block was read: it may be evicted like any other."""
        block = self._unread.pop((key, index), None)
        if block is not None:
            self._no_longer_unread(key, block)
            self._blocks[key, index] = block

    def rename(self, old: bytes, new: bytes) -> None:
        """Move the blocks of one key to another."""
        for place in self._of(old):
            ahead = place in self._unread
            self.put(new, place[1], self._evict(place), ahead=ahead)

    def discard(self, key: bytes) -> None:
        """Evict every block of a version."""
        for place in self._of(key):
            self._evict(place)

    def discard_where(self, is_meant: Callable[[bytes], bool]) -> None:
        """Evict every block whose key is meant."""
        for place in [place for place in (*self._blocks, *self._unread) if is_meant(place[0])]:
            self._evict(place)

    def clear(self) -> None:
        """Evict every block."""
        for place in [*self._blocks, *self._unread]:
            self._evict(place)

    def demote_readahead(self, key: bytes) -> None:
        """The read-ahead of a version will not be read soon: it may be evicted like any other block."""
        for place in [place for place in self._unread if place[0] == key]:
            self.mark_read(*place)

    def _of(self, key: bytes) -> list[_Place]:
        return [place for blocks in (self._blocks, self._unread) for place in blocks if place[0] == key]

    def _evict(self, place: _Place) -> MemoryBlock:
        block = self._blocks.pop(place, None)
        if block is None:
            block = self._unread.pop(place)
            self._no_longer_unread(place[0], block)
        self.size_bytes -= len(block.data)
        return block

    def _no_longer_unread(self, key: bytes, block: MemoryBlock) -> None:
        self.unread_bytes -= len(block.data)
        self._unread_of[key] -= 1
        if not self._unread_of[key]:
            del self._unread_of[key]


class ReadaheadBudget:
    """Bytes of read-ahead in flight. Bounds memory and requests over all files."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used = 0

    def take(self, size: int) -> Callable[[], None] | None:
        """Take `size` bytes and return a function that gives them back; None if there is no room for them."""
        if self.used and self.used + size > self._max_bytes:
            return None
        self.used += size
        given = False

        def give_back() -> None:
            nonlocal given
            if not given:
                given = True
                self.used -= size

        return give_back
