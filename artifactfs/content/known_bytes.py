"""What stays known of a version when the caches have lost its bytes: digests of the first and of the last of them.

Readers were given these bytes, so a larger file must have them, too (growth.py). They are noted when the pool gets
them, which may evict them from then on. About 300 bytes a version.
"""

import msgspec
from xxhash import xxh3_128_digest

from artifactfs.content.memory_cache import MemoryBlock
from artifactfs.domain import Chunk


class Digest(msgspec.Struct, frozen=True, gc=False):
    """Of bytes [start, end) of a file."""

    start: int
    end: int
    value: bytes

    def differs(self, data: Chunk) -> bool:
        """Whether these bytes, which begin at `start`, are others."""
        return xxh3_128_digest(data) != self.value


class KnownBytes:
    """See the module. `first`, `last`: of the first and the last bytes that came, None if none came."""

    __slots__ = ("first", "last")

    def __init__(self) -> None:
        self.first: Digest | None = None
        self.last: Digest | None = None

    def note(self, offset: int, block: MemoryBlock, most_bytes: int) -> None:
        """Note a block that begins at `offset`; a digest is of `most_bytes` or less."""
        if not block.parts:
            return
        start, end = block.parts[0]
        end = min(end, start + most_bytes)
        if self.first is None or (offset + start, -offset - end) < (self.first.start, -self.first.end):
            self.first = _digest(offset, block, start, end)
        start, end = block.parts[-1]
        start = max(start, end - most_bytes)
        if self.last is None or (offset + end, -offset - start) > (self.last.end, -self.last.start):
            self.last = _digest(offset, block, start, end)


def _digest(offset: int, block: MemoryBlock, start: int, end: int) -> Digest:
    return Digest(offset + start, offset + end, xxh3_128_digest(memoryview(block.data)[start:end]))
