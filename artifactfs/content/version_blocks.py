"""What is at hand of one version of a file: its blocks in memory and on disk, and the name they have in the cache.

The name holds the size, so it changes when a size is learned. It does not hold the validator, which comes with the
first answer: blocks of two versions of one size could meet under one name. So the validator of a name is remembered
for the mount (`ContentContext.validators`), and once another one is seen for it, everything under the name goes.
"""

import secrets
from collections.abc import Callable, Collection, Iterable

import trio

from artifactfs import errors
from artifactfs.content.block_format import Provenance
from artifactfs.content.context import ContentContext
from artifactfs.content.memory_cache import MemoryBlock


class VersionBlocks:
    """See the module. `size` None: unknown yet. `run_stamp`: a digest of a settled run's times."""

    def __init__(
        self, shop: ContentContext, size: int | None, name: Callable[[int], bytes], run_stamp: bytes | None
    ) -> None:
        self._shop = shop
        self._block_bytes = shop.tuning.block_bytes
        self._name = name
        self._run_stamp = run_stamp
        # Until the size is known, which is part of the version's name, a name that nothing else has.
        self._key = secrets.token_bytes(16)
        # Blocks that are filling; the pool might drop them.
        self._filling: dict[int, MemoryBlock] = {}
        self._dead: errors.Superseded | None = None
        self.size: int | None = None
        # What the bytes under this name came with, None as long as nothing did.
        self.validator: bytes | None = None
        # Bytes that came for the first time, from the service or the disk: what tells progress from none.
        self.received = 0
        # How far each block ever came.
        self._came: dict[int, int] = {}
        self.changed = trio.Event()
        if size is not None:
            self.learn_size(size)

    # --- the version ---------------------------------------------------------------------------------------

    @property
    def dead(self) -> bool:
        """Whether the server has another version by now, so that nothing more can be had of this one."""
        return self._dead is not None

    def check_alive(self) -> None:
        """Raise Superseded if the server has another version by now."""
        if self._dead is not None:
            # Each time another one: a traceback grows with every raise, and holds what its frames hold.
            raise errors.Superseded(str(self._dead), self._dead.size_bytes)

    def set_validator(self, validator: bytes) -> None:
        """Take note of the validator that the bytes of this version come with."""
        self.validator = self._shop.validators[self._key] = validator

    def learn_size(self, size: int) -> None:
        """Take note of the size: what is at hand has its final name from now on."""
        shop, key = self._shop, self._name(size)
        known = shop.validators.get(key)
        if self.validator is None:
            self.validator = known
        elif known not in (None, self.validator) and not shop.validators_unreliable:
            shop.pool.discard(key)
        shop.pool.rename(self._key, key)
        shop.validators.pop(self._key, None)
        self.size, self._key = size, key
        if self.validator is not None:
            self.set_validator(self.validator)
        self.notify()

    async def supersede(self, error: errors.Superseded, validator: bytes | None) -> None:
        """Another version was seen, known by `validator`: nothing of this one stays."""
        self._dead = error
        self._filling.clear()
        self._shop.pool.discard(self._key)
        # What may still be on its way to the disk does not fit this one, and is refused when it is read.
        if validator is not None:
            self._shop.validators[self._key] = validator
        else:
            self._shop.validators.pop(self._key, None)
        self.notify()
        await self._shop.keeper.discard(self._key)

    def notify(self) -> None:
        """Wake whoever waits for `changed`."""
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    # --- in memory -----------------------------------------------------------------------------------------

    def block(self, index: int) -> MemoryBlock | None:
        """Return a block that is in memory, in part or as a whole."""
        return self._filling.get(index) or self._shop.pool.get(self._key, index)

    def has(self, index: int, count: int) -> bool:
        """Whether the first `count` bytes of a block are in memory."""
        block = self.block(index)
        return block is not None and block.have >= count

    def view(self, index: int, start: int, end: int) -> memoryview | None:
        """Return bytes [start, end) of a block for a reader; None if they are not all in memory."""
        block = self.block(index)
        if block is None or block.have < end:
            return None
        if end == len(block.data):
            self._shop.pool.read(self._key, index)
        return memoryview(block.data)[start:end]

    def demote_readahead(self) -> None:
        """Take note that what was fetched ahead will not be read soon."""
        self._shop.pool.demote_readahead(self._key)

    def length_of(self, index: int) -> int:
        """Return how long a block is when it is whole."""
        return (
            self._block_bytes
            if self.size is None
            else max(0, min(self._block_bytes, self.size - index * self._block_bytes))
        )

    def contiguous_end(self, start: int, end: int, loaded: Collection[int] = ()) -> int:
        """Return to where all bytes from `start` on are in memory, or in blocks `loaded` of late; `end` at most."""
        while start < end:
            index, offset = divmod(start, self._block_bytes)
            block = self.block(index)
            have = self.length_of(index) if index in loaded else block.have if block is not None else 0
            if have <= offset:
                break
            start = index * self._block_bytes + have
            if have < self._block_bytes:
                break
        return min(start, end)

    def next_cached(self, start: int, end: int, loaded: Collection[int]) -> int:
        """Return to where to fetch what lacks from `start` on: the next block that is whole, or `end`."""
        for index in range(start // self._block_bytes + 1, -(-end // self._block_bytes)):
            if index in loaded or self.has(index, self.length_of(index)):
                return index * self._block_bytes
        return end

    def take(self, at: int, chunk: bytes, *, ahead: bool) -> list[tuple[int, MemoryBlock]]:
        """Put bytes that came for place `at` into their blocks; returns the blocks that are whole now.

        `ahead`: nobody has asked for them yet.
        """
        if self._dead is not None:
            return []
        whole: list[tuple[int, MemoryBlock]] = []
        view = memoryview(chunk)
        self._shop.tally.fetched_bytes += len(chunk)
        while view:
            index, offset = divmod(at, self._block_bytes)
            count = min(len(view), self._block_bytes - offset)
            if (block := self._put(index, offset, view[:count], ahead)) is not None:
                whole.append((index, block))
            at += count
            view = view[count:]
        self.notify()
        return whole

    def _put(self, index: int, offset: int, view: memoryview, ahead: bool) -> MemoryBlock | None:
        """Put bytes into a block; returns it if that made it whole."""
        block = self.block(index)
        have = block.have if block is not None else 0
        end = offset + len(view)
        if not offset <= have < end:
            return None  # all of it is there, or what comes before is not: a spool goes by what was dropped
        length = self.length_of(index)
        if have == 0 and len(view) == length:
            block = MemoryBlock(bytearray(view), length)  # all at once: no need to clear the memory first
        else:
            if block is None or len(block.data) < length:
                # Not resized: somebody may hold a view of the shorter one.
                larger = bytearray(length)
                if block is not None:
                    larger[:have] = memoryview(block.data)[:have]
                block = MemoryBlock(larger, have)
            block.data[have:end] = view[have - offset :]
            block.have = end
        # A body that starts again, and again breaks off, gets nowhere.
        self.received += max(0, end - self._came.get(index, 0))
        self._came[index] = max(end, self._came.get(index, 0))
        if end < length:
            self._filling[index] = block
            return None
        self._filling.pop(index, None)
        self._shop.tally.fetched_blocks += 1
        self._shop.pool.put(self._key, index, block, ahead=ahead)
        return block

    def hold(self, at: int) -> None:
        """Bytes are about to come for place `at`: what its block has by now must stay."""
        index, offset = divmod(at, self._block_bytes)
        if offset and (block := self.block(index)) is not None:
            self._filling[index] = block

    def settle(self, indices: Iterable[int]) -> None:
        """These blocks are no longer filling: what came of them is good, and the next fill goes on from there."""
        for index in indices:
            block = self._filling.pop(index, None)
            if block is not None and block.have and self._dead is None:
                self._shop.pool.put(self._key, index, block)

    # --- on disk -------------------------------------------------------------------------------------------

    async def load(self, indices: Iterable[int], *, ahead: bool) -> set[int]:
        """Bring blocks from the disk that lack in memory, as far as they are there and still hold.

        Returns those that it brought whole: by then memory may have dropped the first of many.
        """
        loaded: set[int] = set()
        if self.size is None:
            return loaded
        wanted = [index for index in indices if not self.has(index, self.length_of(index))]
        found = await self._shop.keeper.load(self._key, wanted, self._accepts)
        for index, kept in zip(wanted, found, strict=True):
            # Again: the first one that is found says which version it is.
            if kept is None or self._dead is not None or not self._accepts(kept.stamp):
                continue
            if self.validator is None and kept.stamp.validator is not None:
                self.set_validator(kept.stamp.validator)
            block = MemoryBlock(kept.data, len(kept.data))
            self._shop.tally.disk_blocks += 1
            self._shop.tally.disk_bytes += block.have
            if block.have == self.length_of(index):
                loaded.add(index)
            if not self.has(index, block.have):
                self.received += block.have
                if index in loaded:
                    self._shop.pool.put(self._key, index, block, ahead=ahead)
                else:
                    self._filling[index] = block
        self.notify()
        return loaded

    async def keep(self, index: int, block: MemoryBlock | None) -> None:
        """Have a block kept on disk, as far as it has come."""
        if self.size is None or self._dead is not None or block is None or not block.have:
            return
        shop = self._shop
        validator = None if shop.validators_unreliable else self.validator
        stamp = Provenance(shop.wall_clock(), shop.keeper.session, validator, self._run_stamp)
        await shop.keeper.save(self._key, index, block.data, block.have, stamp)

    async def keep_all(self) -> None:
        """Have everything kept that is in memory: the size is known only now."""
        indices = range(-(-(self.size or 0) // self._block_bytes))
        self.settle(indices)
        for index in indices:
            await self.keep(index, self.block(index))

    def _accepts(self, stamp: Provenance) -> bool:
        """Whether a kept block may be served (semantics 4.3)."""
        shop = self._shop
        validator = None if shop.validators_unreliable else stamp.validator
        if validator is not None:
            return self.validator is None or validator == self.validator
        if stamp.session == shop.keeper.session:
            return True
        if stamp.run is not None:
            return stamp.run == self._run_stamp
        # A clock that was set back makes nothing young again.
        return 0 <= shop.wall_clock() - stamp.fetched_at <= shop.listing_ttl_s
