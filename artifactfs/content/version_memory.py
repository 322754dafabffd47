"""The blocks of one version of a file that are in memory: those that are being filled, and those in the pool."""

from collections.abc import Callable, Collection, Iterable

from artifactfs.content.context import ContentContext
from artifactfs.content.known_bytes import KnownBytes
from artifactfs.content.memory_cache import MemoryBlock
from artifactfs.util.pulse import Pulse

# Blocks that one read of a socket may fill: what arrives meanwhile is about a MiB. Arbitrary.
_ROOM_BLOCKS = 3


class VersionMemory:
    """See the module. `size`: bytes of the file, None while that is unknown; `key`: the version's key in the caches."""

    def __init__(self, context: ContentContext, key: bytes) -> None:
        self._context = context
        self._block_bytes = context.tuning.block_bytes
        # It stays while the version grows.
        self.key = key
        self.size: int | None = None
        # Blocks that are being filled: the pool might evict them.
        self.filling: dict[int, MemoryBlock] = {}
        # Bytes that came for the first time, from the service or the disk: the measure of progress.
        self.received = 0
        self._high_water: dict[int, int] = {}  # of each block
        # Bytes that came to be compared with the version (`came_to_compare`), in all; and since when, and how many.
        self._compared = 0
        self._compared_since = (-1, 0)
        # The proofs that the file continues the version (growth.py): how many began, and the last that succeeded.
        self.proofs = self.proven = 0
        # Of blocks that were given to the pool.
        self._known = KnownBytes()
        self.changed = Pulse()
        self._end: Callable[[], Exception] | None = None

    @property
    def dead(self) -> bool:
        """Whether nothing more can be read of these blocks: the version is superseded, or has a successor."""
        return self._end is not None

    @property
    def progress(self) -> int:
        """The measure of progress of those that wait: what was received, and what came to be compared with it."""
        return self.received + self._compared

    def came_to_compare(self, count: int) -> None:
        """Take note that `count` bytes of an answer came which is compared with the version before its bytes count.

        Only more than any other such answer brought since bytes were received: the next one brings the same again.
        """
        since, most = self._compared_since
        if since != self.received:
            most = 0
        if count > most:
            self._compared += count - most
            self._compared_since = self.received, count

    @property
    def known_bytes(self) -> int:
        """The size; or how far the bytes reach that came, where that is unknown."""
        if self.size is not None:
            return self.size
        last = self.known.last
        return last.end if last is not None else 0

    def block(self, index: int) -> MemoryBlock | None:
        """Return a block that is in memory, in part or whole."""
        return self.filling.get(index) or self._context.pool.get(self.key, index)

    def view(self, index: int, start: int, end: int) -> memoryview | None:
        """Return bytes [start, end) of a block for a reader; None if memory does not have them all."""
        block = self.block(index)
        if block is None or block.end_from(start) < end:
            return None
        if end == len(block.data):
            self._context.pool.mark_read(self.key, index)
        return memoryview(block.data)[start:end]

    def demote_readahead(self) -> None:
        """Let the pool evict what was fetched ahead: it will not be read soon."""
        self._context.pool.demote_readahead(self.key)

    def last_in_memory(self) -> int | None:
        """Return the index of the last block that is in memory."""
        filling = (index for index, block in self.filling.items() if block.filled)
        return max((*filling, *self._context.pool.indices(self.key)), default=None)

    @property
    def known(self) -> KnownBytes:
        """What came of the version, whether or not the caches still have it, for the version's next blocks, too."""
        for index, block in self.filling.items():
            self._note(index, block)
        return self._known

    @known.setter
    def known(self, known: KnownBytes) -> None:
        self._known = known

    def length_of(self, index: int) -> int:
        """Return the length of a whole block."""
        size, block_bytes = self.size, self._block_bytes
        return block_bytes if size is None else max(0, min(block_bytes, size - index * block_bytes))

    def contiguous_end(self, start: int, end: int, loaded: Collection[int] = ()) -> int:
        """Return the offset up to which all bytes from `start` are in memory or in blocks `loaded`; at most `end`."""
        block_bytes = self._block_bytes
        while start < end:
            index, offset = divmod(start, block_bytes)
            block = self.block(index)
            reached = self.length_of(index) if index in loaded else block.end_from(offset) if block is not None else 0
            if reached <= offset:
                break
            start = index * block_bytes + reached
            if reached < block_bytes:
                break
        return min(start, end)

    def next_cached(self, start: int, end: int, loaded: Collection[int] = ()) -> int:
        """Return the offset of the next bytes after `start` that are in memory or in blocks `loaded`, or `end`."""
        for index in range(start // self._block_bytes, -(-end // self._block_bytes)):
            base, block = index * self._block_bytes, self.block(index)
            first = 0 if index in loaded else block.next_from(start - base) if block is not None else None
            if first is not None and base + first > start:
                return min(base + first, end)
        return end

    def room(self, offset: int, end: int) -> list[memoryview]:
        """Return where the next bytes from `offset` belong, up to `end`, for `receive`: of each block what it lacks."""
        found: list[memoryview] = []
        while not self.dead and offset < end and len(found) < _ROOM_BLOCKS:
            index, start = divmod(offset, self._block_bytes)
            length = self.length_of(index)
            block = self._with_room(index, length)
            following = block.next_from(start)
            stop = min(length, end - index * self._block_bytes, length if following is None else following)
            if block.end_from(start) > start or stop <= start:
                break
            self.filling[index] = block
            found.append(memoryview(block.data)[start:stop])
            offset += stop - start
        return found

    def _put(self, index: int, start: int, view: memoryview, ahead: bool) -> MemoryBlock | None:
        """Put bytes into a block; returns the block if it is whole now, or its last bytes came."""
        block = self.block(index)
        end = start + len(view)
        if block is not None and block.end_from(start) >= end:
            return None
        length = self.length_of(index)
        block = self._with_room(index, length)
        if view.obj is memoryview(block.data).obj:
            # They were received there, at `room`: nothing else has views of that before it is marked.
            block.mark(start, end)
        else:
            block.fill(start, view)
        # Only more than there ever was counts, so that restarts do not look like progress.
        high_water, count = self._high_water.get(index, 0), block.count
        self.received += max(0, count - high_water)
        self._high_water[index] = max(count, high_water)
        if count < length:
            self.filling[index] = block
            return block if end == length else None
        self.filling.pop(index, None)
        self._give(index, block, ahead=ahead)
        return block

    def _with_room(self, index: int, length: int) -> MemoryBlock:
        """Return what is there of a block, in a buffer for `length` bytes."""
        block = self.block(index)
        if block is not None and len(block.data) >= length:
            return block
        # Not resized: a reader may have a view of the shorter buffer.
        larger = MemoryBlock(self._context.new_buffer(length), 0)
        for first, last in block.parts if block is not None else ():
            larger.fill(first, memoryview(block.data)[first:last])  # type: ignore[union-attr]
        return larger

    def pin(self, indices: Iterable[int]) -> None:
        """Keep blocks that are there in part in memory: a fetch will bring more of them."""
        for index in indices:
            if (block := self.block(index)) is not None and block.count < self.length_of(index):
                self.filling[index] = block

    def unpin(self, indices: Iterable[int]) -> None:
        """Give blocks to the pool as far as they are filled; the next fetch continues there."""
        for index in indices:
            block = self.filling.pop(index, None)
            if block is not None and block.parts and not self.dead:
                self._give(index, block)

    def _give(self, index: int, block: MemoryBlock, *, ahead: bool = False) -> None:
        """Give a block to the pool, which may evict it."""
        self._note(index, block)
        self._context.pool.put(self.key, index, block, ahead=ahead)

    def _note(self, index: int, block: MemoryBlock) -> None:
        self._known.note(index * self._block_bytes, block, self._context.tuning.head_bytes)
