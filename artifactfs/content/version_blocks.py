"""The cached blocks of one version of a file, in memory and on disk, and the version's key in the caches.

The key includes the size by the listing. It does not include the validator, which comes with the first answer: blocks
of two versions of one size could meet under one key. So the validator of each key is remembered
(`ContentContext.validators`), and a different one discards everything under the key. Where the listing gives no size,
the key is without it, and the size is saved beside the blocks.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from artifactfs import errors
from artifactfs.content.block_buffers import Buffer
from artifactfs.content.block_format import Parts, Provenance
from artifactfs.content.context import ContentContext
from artifactfs.content.known_bytes import KnownBytes
from artifactfs.content.memory_cache import MemoryBlock
from artifactfs.content.version_memory import VersionMemory
from artifactfs.domain import Chunk

E = TypeVar("E", bound=errors.ArtifactfsError)

# Where the size of a file is saved that no listing gives one of: after every block.
_SIZE_INDEX, _SIZE_BYTES = (1 << 32) - 1, 8
# Validators that a version had before it grew, at most: blocks on the disk that have an earlier one are fetched again.
# 200 bytes each. Arbitrary.
_MAX_EARLIER = 1_000
_ANOTHER_VERSION = "the server has another version of this file"


class HasSuccessor(Exception):
    """The version goes on with other blocks: the read starts again from its first byte (docs/semantics.md 3.6, 6.3)."""


class VersionBlocks(VersionMemory):
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
        super().__init__(context, key or key_of(size))
        self._key_of = key_of
        self.content_stamp = content_stamp
        # In the order in which they were given up.
        self.earlier_validators = dict.fromkeys(earlier_validators)
        self._has_own_time = has_own_time
        # Readers have bytes that are cached no more, so whatever comes must have the same validator (3.6).
        self.must_match = False
        # Whether the key is without the size, which is then saved beside the blocks.
        self.saves_size = key is None and size is None
        # Whether the size is the listing's alone, and whether answers are whole bodies that do not tell it.
        self.is_listed_only = key is None and size is not None
        self.lacks_length = False
        # The validator that the bytes of this version came with; None before the first answer.
        self.validator: bytes | None = None
        # How often the version grew, or went on as far as is known, and how often of these without a comparison: what
        # an answer that began before brings is of the smaller file.
        self.growths = self.uncompared_growths = 0
        if size is not None:
            self.learn_size(size)

    # --- the version ---------------------------------------------------------------------------------------

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
        self.validator = self._context.validators[self.key] = validator

    def learn_size(self, size: int) -> None:
        """Set the size, which was not known, or only listed."""
        self.size = size
        if self.validator is None:
            self.validator = self._context.validators.get(self.key)
        self.changed.notify()

    def grow(self, size: int, validator: bytes | None, *, compared: bool) -> None:
        """Set a larger size, and the validator of the answer that proved it. `compared`: see Growth."""
        if not compared:
            # Blocks that another handle left on the disk were compared with nothing.
            self._context.pool.discard(self.key)
            self.filling.clear()
            self.key = self._key_of(size)
            self.earlier_validators.clear()
            self.uncompared_growths += 1
            self.known = KnownBytes()
        self.size = size
        self.go_on(validator, compared=compared)

    def go_on(self, validator: bytes | None, *, compared: bool = True) -> None:
        """Go on with what an answer was of that proved that it continues the version, or grew otherwise: see `grow`."""
        if compared and self.validator is not None and validator != self.validator:
            self.earlier_validators[self.validator] = None
            if len(self.earlier_validators) > _MAX_EARLIER:
                del self.earlier_validators[next(iter(self.earlier_validators))]
        self.growths += 1
        self.validator = self._context.validators.get(self.key) if not compared else None
        if validator is not None:
            self.set_validator(validator)
        self.changed.notify()

    async def supersede(self, size: int | None = None, validator: bytes | None = None) -> errors.Superseded:
        """Discard everything, since an answer was of another version, of this size and validator where known.

        Returns the error that readers get.
        """
        return await self._end_all(lambda: errors.Superseded(_ANOTHER_VERSION, size), validator)

    async def reject(self, fact: str) -> errors.UnexpectedAnswer:
        """Discard everything, since an answer contradicted itself: what readers have of it may be wrong.

        Returns the error that they get.
        """
        return await self._end_all(lambda: errors.UnexpectedAnswer(fact), None)

    async def _end_all(self, error: Callable[[], E], validator: bytes | None) -> E:
        if self._end is None:
            self._end = error
        # A block that is still on its way to the disk has the old validator, so `load` will refuse it.
        if validator is not None:
            self._context.validators[self.key] = validator
        else:
            self._context.validators.pop(self.key, None)
        self.changed.notify()
        await self.discard()
        return error()

    async def discard(self) -> None:
        """Discard everything that is cached."""
        self.filling.clear()
        self._context.pool.discard(self.key)
        await self._context.disk_cache.discard(self.key)

    def end_scope(self, error: Callable[[], Exception]) -> None:
        """End all reads of these blocks with an error, and leave the caches as they are."""
        self._end = error
        self.filling.clear()
        self.changed.notify()

    # --- receiving -----------------------------------------------------------------------------------------

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
            self._queue(index, block)
        if ended:
            await self._context.disk_cache.wait_for_room()

    # --- on disk -------------------------------------------------------------------------------------------

    async def load(self, indices: Iterable[int], *, ahead: bool) -> set[int]:
        """Load blocks of which memory has nothing from the disk, if they are still valid.

        Returns those that it loaded whole: memory may already have evicted the first of many.
        """
        loaded: set[int] = set()
        if self.size is None:
            return loaded
        context, key = self._context, self.key
        # Where memory has a part, a fetch has looked already.
        wanted = [index for index in indices if self.block(index) is None]
        found = await context.disk_cache.load(key, wanted, self._is_valid)
        for index, cached in zip(wanted, found, strict=True):
            # Checked again: the first block that is found determines the validator, and the version may have grown,
            # compared with none of these blocks.
            if cached is None or self.dead or key != self.key or not self._is_valid(cached.stamp):
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
                self._give(index, MemoryBlock(cached.data, len(cached.data)), ahead=ahead)
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
        if block is not None:
            self._queue(index, block)
            await self._context.disk_cache.wait_for_room()

    def _queue(self, index: int, block: MemoryBlock) -> None:
        if not self.dead and block.parts:
            parts = tuple(block.parts) if block.filled < block.count else None
            views = [memoryview(block.data)[start:end] for start, end in parts or ()]
            self._save(index, bytearray().join(views) if views else block.data, block.count, parts)

    def persist_size(self) -> None:
        """Save the size, which no listing gives."""
        if self.size is not None and self.saves_size and not self.dead:
            self._save(_SIZE_INDEX, bytearray(self.size.to_bytes(_SIZE_BYTES, "little")), _SIZE_BYTES)

    async def load_size(self) -> None:
        """Learn the size that `persist_size` saved, if that is still valid; otherwise discard what is cached.

        Without the size nothing tells whether blocks under this key are of one version.
        """
        found = (await self._context.disk_cache.load(self.key, [_SIZE_INDEX], self._is_valid))[0]
        if found is not None and self.size is None and not self.dead and self._is_valid(found.stamp):
            if self.validator is None and found.stamp.validator is not None:
                self.set_validator(found.stamp.validator)
            self.learn_size(int.from_bytes(found.data, "little"))
        if self.size is None and self.saves_size and not self.received:
            await self.discard()

    def _save(self, index: int, data: Buffer, count: int, parts: Parts | None = None) -> None:
        context = self._context
        validator = None if context.validators_unreliable else self.validator
        stamp = Provenance(context.wall_clock(), context.disk_cache.session, validator, self.content_stamp, parts)
        context.disk_cache.queue(self.key, index, data, count, stamp)

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
