"""Blocks in memory: the few that readers are at, bounded for the whole mount. No await in here.

A block here may still be filling: its bytes up to `have` are good and never change. Who holds a view of them keeps
them alive, whatever the pool drops.
"""

from collections import Counter
from collections.abc import Callable


class MemoryBlock:
    """The first `have` good bytes of a block, in a buffer that may be longer."""

    __slots__ = ("data", "have")

    def __init__(self, data: bytearray, have: int) -> None:
        self.data = data
        self.have = have


_Place = tuple[bytes, int]


class BlockPool:
    """Blocks by (version, index), `max_bytes` of buffers at most, but for what is waited for.

    What was fetched ahead of a reader stays until it is read, unless that takes up most of the room: dropped, it would
    be fetched again, and of a server without ranges so would be all that comes before. Else first in, first out: what
    somebody has read the kernel has, too.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._blocks: dict[_Place, MemoryBlock] = {}
        # Those that nobody has read yet, how much that is, and how many of each version.
        self._unread: dict[_Place, MemoryBlock] = {}
        self._unread_bytes = 0
        self._unread_of: Counter[bytes] = Counter()

    @property
    def readers_ahead_of(self) -> int:
        """The number of versions that something unread is held of."""
        return len(self._unread_of)

    @property
    def readahead_capacity(self) -> int:
        """Bytes that may still be fetched ahead without dropping what was fetched ahead before."""
        return max(0, self.max_bytes * 7 // 8 - self._unread_bytes)

    def get(self, key: bytes, index: int) -> MemoryBlock | None:
        """Return a block."""
        return self._blocks.get((key, index)) or self._unread.get((key, index))

    def held_bytes(self, key: bytes) -> int:
        """Return how many bytes of a version are held."""
        return sum((self._blocks.get(place) or self._unread[place]).have for place in self._of(key))

    def put(self, key: bytes, index: int, block: MemoryBlock, *, ahead: bool = False) -> None:
        """Hold a block, unless more of it is held already; others go where there is no room. `ahead`: of a reader."""
        place = key, index
        old = self.get(key, index)
        if old is not None:
            if old.have > block.have:
                return
            self._drop(place)
        self.size_bytes += len(block.data)
        if ahead:
            self._unread[place] = block
            self._unread_bytes += len(block.data)
            self._unread_of[key] += 1
            while not self.readahead_capacity and len(self._unread) > 1:
                self.read(*next(iter(self._unread)))
        else:
            self._blocks[place] = block
        while self.size_bytes > self.max_bytes and len(self._blocks) > (not ahead):
            self._drop(next(iter(self._blocks)))

    def read(self, key: bytes, index: int) -> None:
        """Take note that somebody has read a block."""
        block = self._unread.pop((key, index), None)
        if block is not None:
            self._no_longer_unread(key, block)
            self._blocks[key, index] = block

    def rename(self, old: bytes, new: bytes) -> None:
        """Hold the blocks of one version under the name of another."""
        for place in self._of(old):
            ahead = place in self._unread
            self.put(new, place[1], self._drop(place), ahead=ahead)

    def discard(self, key: bytes) -> None:
        """Drop every block of a version."""
        for place in self._of(key):
            self._drop(place)

    def demote_readahead(self, key: bytes) -> None:
        """Take note that what was fetched ahead of a version's readers will not be read soon."""
        for place in [place for place in self._unread if place[0] == key]:
            self.read(*place)

    def _of(self, key: bytes) -> list[_Place]:
        return [place for blocks in (self._blocks, self._unread) for place in blocks if place[0] == key]

    def _drop(self, place: _Place) -> MemoryBlock:
        block = self._blocks.pop(place, None)
        if block is None:
            block = self._unread.pop(place)
            self._no_longer_unread(place[0], block)
        self.size_bytes -= len(block.data)
        return block

    def _no_longer_unread(self, key: bytes, block: MemoryBlock) -> None:
        self._unread_bytes -= len(block.data)
        self._unread_of[key] -= 1
        if not self._unread_of[key]:
            del self._unread_of[key]


class ReadaheadBudget:
    """Bytes under way that were asked for ahead of any reader. Bounds memory and requests over all files."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used = 0

    def take(self, size: int) -> Callable[[], None] | None:
        """Take `size` bytes and return how to give them back; None if they are not to be had."""
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
