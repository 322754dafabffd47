"""The cached blocks of one version of a file, in memory and on disk, and the version's key in the caches.

The key includes the size by the listing. It does not include the validator, which comes with the first answer: blocks
of two versions of one size could meet under one key. So the validator of each key is remembered
(`ContentContext.validators`), and a different one discards everything under the key. Where the listing gives no size,
the key is without it, and the size is saved beside the blocks.
"""

from collections.abc import Callable, Collection, Iterable

from artifactfs import errors
from artifactfs.content.block_buffers import Buffer
from artifactfs.content.block_format import Parts, Provenance
from artifactfs.content.context import ContentContext
from artifactfs.content.memory_cache import MemoryBlock
from artifactfs.domain import Chunk
from artifactfs.util.pulse import Pulse

# Where the size of a file is saved that no listing gives one of: after every block.
_SIZE_INDEX = (1 << 32) - 1
_SIZE_BYTES = 8
# Blocks that one read of a socket may fill: what arrives meanwhile is about a MiB. Arbitrary.
_ROOM_BLOCKS = 3


class HasSuccessor(Exception):
    """The version goes on with other blocks: the read starts again from its first byte (docs/semantics.md 3.6, 6.3)."""


class LargerContent(Exception):
    """An answer is of a larger file, which may continue the version. `total`: its size in bytes, where it says that."""

    def __init__(self, total: int | None) -> None:
        super().__init__(total)
        self.total = total


class SmallerContent(Exception):
    """An answer is of a smaller file. `whole`: it is a whole body; `is_first`: see VersionBlocks.is_untouched."""

    def __init__(self, size: int, *, whole: bool, is_first: bool) -> None:
        super().__init__(size)
        self.size = size
        self.whole = whole
        self.is_first = is_first


class VersionBlocks:
    """See the module. `size` None: unknown so far. `key_of(size)`: the key, which stays when the size becomes another.

    `content_stamp`: see ContentVersion; `has_own_time`: it is of the file's own time, and not of its run's.
    `key`: the one that the version had before it grew, in place of `key_of`; `earlier_validators`: its validators then.
    """

    def __init__(
        self,
        context: ContentContext,
        size: int | None,
        key_of: Callable[[int | None], bytes],
        content_stamp: bytes | None,
        key: bytes | None = None,
        earlier_validators: Iterable[bytes] = (),
        has_own_time: bool = False,
    ) -> None:
        self._context = context
        self._block_bytes = context.tuning.block_bytes
        self._key_of = key_of
        self.content_stamp = content_stamp
        self.earlier_validators = set(earlier_validators)
        self._has_own_time = has_own_time
        # Readers have bytes that are cached no more, so whatever comes must have the same validator (3.6).
        self.must_match = False
        self._key = key or key_of(size)
        # Whether the key is without the size, which is then saved beside the blocks.
        self.saves_size = key is None and size is None
        # Whether the size is the listing's alone, and whether answers are whole bodies that do not tell it.
        self.is_listed_only = key is None and size is not None
        self.lacks_length = False
        # Blocks that are being filled: the pool might evict them.
        self._filling: dict[int, MemoryBlock] = {}
        self._end: Callable[[], Exception] | None = None
        self.size: int | None = None
        # The validator that the bytes of this version came with; None before the first answer.
        self.validator: bytes | None = None
        # Bytes that came for the first time, from the service or the disk: the measure of progress.
        self.received = 0
        self._high_water: dict[int, int] = {}  # of each block
        self.changed = Pulse()
        if size is not None:
            self.learn_size(size)

    # --- the version ---------------------------------------------------------------------------------------

    @property
    def dead(self) -> bool:
        """Whether nothing more can be read of these blocks: the version is superseded, or has a successor."""
        return self._end is not None

    def check_alive(self) -> None:
        """Raise Superseded if the server has another version, HasSuccessor if this one goes on with other blocks."""
        if self._end is not None:
            # A new exception each time: a traceback grows with every raise and keeps its frames alive.
            raise self._end()

    @property
    def is_untouched(self) -> bool:
        """Whether nothing is known of the contents, and no reader was given any."""
        return self.is_listed_only and not self.received and self.last_in_memory() is None

    def set_validator(self, validator: bytes) -> None:
        """Set the validator that the bytes of this version come with."""
        self.validator = self._context.validators[self._key] = validator

    def learn_size(self, size: int) -> None:
        """Set the size, which was not known, or only listed."""
        self.size = size
        if self.validator is None:
            self.validator = self._context.validators.get(self._key)
        self.changed.notify()

    @property
    def key(self) -> bytes:
        """The key in the caches. It stays while the version grows."""
        return self._key

    def grow(self, size: int, validator: bytes | None, *, compared: bool) -> None:
        """Set a larger size, and the validator of the answer that proved it. `compared`: see Growth."""
        if not compared:
            # Blocks that another handle left on the disk were compared with nothing.
            self._context.pool.discard(self._key)
            self._filling.clear()
            self._key = self._key_of(size)
            self.earlier_validators.clear()
        elif self.validator is not None and validator != self.validator:
            self.earlier_validators.add(self.validator)
        self.size = size
        self.validator = self._context.validators.get(self._key) if not compared else None
        if validator is not None:
            self.set_validator(validator)
        self.changed.notify()

    async def supersede(self, size: int | None = None, validator: bytes | None = None) -> errors.Superseded:
        """Discard everything, since an answer was of another version, of this size and validator where known.

        Returns the error that readers get.
        """
        if self._end is None:
            self._end = lambda: errors.Superseded("the server has another version of this file", size)
        self._filling.clear()
        self._context.pool.discard(self._key)
        # A block that is still on its way to the disk has the old validator, so `load` will refuse it.
        if validator is not None:
            self._context.validators[self._key] = validator
        else:
            self._context.validators.pop(self._key, None)
        self.changed.notify()
        await self._context.disk_cache.discard(self._key)
        return errors.Superseded("the server has another version of this file", size)

    def end_scope(self, error: Callable[[], Exception]) -> None:
        """End all reads of these blocks with an error, and leave the caches as they are."""
        self._end = error
        self._filling.clear()
        self.changed.notify()

    # --- in memory -----------------------------------------------------------------------------------------

    def block(self, index: int) -> MemoryBlock | None:
        """Return a block that is in memory, in part or whole."""
        return self._filling.get(index) or self._context.pool.get(self._key, index)

    def view(self, index: int, start: int, end: int) -> memoryview | None:
        """Return bytes [start, end) of a block for a reader; None if memory does not have them all."""
        block = self.block(index)
        if block is None or block.end_from(start) < end:
            return None
        if end == len(block.data):
            self._context.pool.mark_read(self._key, index)
        return memoryview(block.data)[start:end]

    def demote_readahead(self) -> None:
        """Let the pool evict what was fetched ahead: it will not be read soon."""
        self._context.pool.demote_readahead(self._key)

    def last_in_memory(self) -> int | None:
        """Return the index of the last block that is in memory."""
        filling = (index for index, block in self._filling.items() if block.filled)
        return max((*filling, *self._context.pool.indices(self._key)), default=None)

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
            self._filling[index] = block
            found.append(memoryview(block.data)[start:stop])
            offset += stop - start
        return found

    async def receive(self, offset: int, chunk: Chunk, *, ahead: bool) -> None:
        """Put bytes from the service into their blocks, wake the readers, then cache the blocks that came to their end.

        `ahead`: no read has asked for them yet.
        """
        if self.dead:
            return
        ended: list[tuple[int, MemoryBlock]] = []
        view = memoryview(chunk)
        self._context.stats.fetched_bytes += len(chunk)
        while view:
            index, start = divmod(offset, self._block_bytes)
            count = min(len(view), self._block_bytes - start)
            if (block := self._put(index, start, view[:count], ahead)) is not None:
                self._context.stats.fetched_blocks += block.count == self.length_of(index)
                ended.append((index, block))
            offset += count
            view = view[count:]
        self.changed.notify()
        for index, block in ended:
            await self.persist(index, block)

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
            self._filling[index] = block
            return block if end == length else None
        self._filling.pop(index, None)
        self._context.pool.put(self._key, index, block, ahead=ahead)
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
                self._filling[index] = block

    def unpin(self, indices: Iterable[int]) -> None:
        """Give blocks to the pool as far as they are filled; the next fetch continues there."""
        for index in indices:
            block = self._filling.pop(index, None)
            if block is not None and block.parts and not self.dead:
                self._context.pool.put(self._key, index, block)

    # --- on disk -------------------------------------------------------------------------------------------

    async def load(self, indices: Iterable[int], *, ahead: bool) -> set[int]:
        """Load blocks of which memory has nothing from the disk, if they are still valid.

        Returns those that it loaded whole: memory may already have evicted the first of many.
        """
        loaded: set[int] = set()
        if self.size is None:
            return loaded
        context = self._context
        # Where memory has a part, a fetch has looked already.
        wanted = [index for index in indices if self.block(index) is None]
        found = await context.disk_cache.load(self._key, wanted, self._is_valid)
        for index, cached in zip(wanted, found, strict=True):
            # Checked again: the first block that is found determines the validator.
            if cached is None or self.dead or not self._is_valid(cached.stamp):
                continue
            its_validator = cached.stamp.validator
            if self.validator is None and its_validator is not None and its_validator not in self.earlier_validators:
                self.set_validator(its_validator)
            context.stats.disk_blocks += 1
            context.stats.disk_bytes += len(cached.data)
            if len(cached.data) >= self.length_of(index):
                loaded.add(index)
            if index in loaded and self.block(index) is None:
                self.received += len(cached.data)
                context.pool.put(self._key, index, MemoryBlock(cached.data, len(cached.data)), ahead=ahead)
                continue
            at = 0
            for start, end in cached.stamp.parts or ((0, len(cached.data)),):
                self._put(index, start, memoryview(cached.data)[at : at + end - start], ahead)
                at += end - start
            if index not in loaded:
                # Not evicted before the fetch for which it was loaded has ended.
                self.pin([index])
        self.changed.notify()
        return loaded

    async def persist(self, index: int, block: MemoryBlock | None) -> None:
        """Save a block to the disk, as far as it is filled."""
        if not self.dead and block is not None and block.parts:
            if (filled := block.filled) == block.count:
                await self._save(index, block.data, filled)
            else:
                data = bytearray().join(memoryview(block.data)[start:end] for start, end in block.parts)
                await self._save(index, data, len(data), tuple(block.parts))

    async def persist_size(self) -> None:
        """Save the size, which no listing gives."""
        if self.size is not None and self.saves_size and not self.dead:
            await self._save(_SIZE_INDEX, bytearray(self.size.to_bytes(_SIZE_BYTES, "little")), _SIZE_BYTES)

    async def load_size(self) -> None:
        """Learn the size that `persist_size` saved, if that is still valid; otherwise discard what is cached.

        Without the size nothing tells whether blocks under this key are of one version.
        """
        found = (await self._context.disk_cache.load(self._key, [_SIZE_INDEX], self._is_valid))[0]
        if found is not None and self.size is None and not self.dead and self._is_valid(found.stamp):
            if self.validator is None and found.stamp.validator is not None:
                self.set_validator(found.stamp.validator)
            self.learn_size(int.from_bytes(found.data, "little"))
        if self.size is None and self.saves_size and not self.received:
            self._context.pool.discard(self._key)
            await self._context.disk_cache.discard(self._key)

    async def _save(self, index: int, data: Buffer, count: int, parts: Parts | None = None) -> None:
        context = self._context
        validator = None if context.validators_unreliable else self.validator
        stamp = Provenance(context.wall_clock(), context.disk_cache.session, validator, self.content_stamp, parts)
        await context.disk_cache.save(self._key, index, data, count, stamp)

    async def persist_range(self, start: int, end: int) -> None:
        """Save the blocks in memory of bytes [start, end), whole or not, and give them to the pool."""
        indices = range(start // self._block_bytes, -(-end // self._block_bytes))
        self.unpin(indices)
        for index in indices:
            await self.persist(index, self.block(index))

    def _is_valid(self, stamp: Provenance) -> bool:
        """Whether a cached block may be served (docs/semantics.md 4.3)."""
        context = self._context
        validator = None if context.validators_unreliable else stamp.validator
        is_of_session = stamp.session == context.disk_cache.session
        if self.must_match and stamp.validator != self.validator:
            return False
        if validator is not None:
            # Until an answer tells the validator, another time of the file itself is another version.
            has_moved = self._has_own_time and stamp.contradicts(self.content_stamp)
            is_its = (is_of_session or not has_moved) if self.validator is None else self.validator == validator
            return is_its or validator in self.earlier_validators
        if is_of_session or stamp.content_stamp is not None:
            return is_of_session or stamp.content_stamp == self.content_stamp
        # A negative age: the clock was set back.
        return 0 <= context.wall_clock() - stamp.fetched_at <= context.listing_ttl_s
