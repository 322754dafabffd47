"""Blocks in memory: the few that readers are at, bounded for the whole mount. No await in here.

A block here may still be filling: its bytes up to `have` are good and never change. Who holds a view of them keeps
them alive, whatever the pool drops.
"""

from collections.abc import Callable


class MemoryBlock:
    """The first `have` good bytes of a block, in a buffer that may be longer."""

    __slots__ = ("data", "have")

    def __init__(self, data: bytearray, have: int) -> None:
        self.data = data
        self.have = have


class Pool:
    """Blocks by (version, index), first in first out, `max_bytes` of buffers at most.

    Not least recently used first: that would drop what was fetched ahead of a reader before what he has read.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._blocks: dict[tuple[bytes, int], MemoryBlock] = {}
        self.size_bytes = 0

    def get(self, key: bytes, index: int) -> MemoryBlock | None:
        """Return a block."""
        return self._blocks.get((key, index))

    def put(self, key: bytes, index: int, block: MemoryBlock) -> None:
        """Hold a block, unless more of it is held already; others go where there is no room."""
        old = self._blocks.get((key, index))
        if old is not None:
            if old.have > block.have:
                return
            self.size_bytes -= len(self._blocks.pop((key, index)).data)
        self._blocks[key, index] = block
        self.size_bytes += len(block.data)
        while self.size_bytes > self.max_bytes and len(self._blocks) > 1:
            self.size_bytes -= len(self._blocks.pop(next(iter(self._blocks))).data)

    def rename(self, old: bytes, new: bytes) -> None:
        """Hold the blocks of one version under the name of another."""
        for key, index in [found for found in self._blocks if found[0] == old]:
            block = self._blocks.pop((key, index))
            self.size_bytes -= len(block.data)
            self.put(new, index, block)

    def discard(self, key: bytes) -> None:
        """Drop every block of a version."""
        for found in [found for found in self._blocks if found[0] == key]:
            self.size_bytes -= len(self._blocks.pop(found).data)


class Budget:
    """Bytes under way: asked for ahead of any reader, or waiting to be written. Bounds memory over all files."""

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
