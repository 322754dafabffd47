"""One version of one file, for everybody who reads it: what is at hand, what is under way, what is fetched.

A `Source` brings blocks from the cache on disk or from the service, each once, whatever the number of readers
(semantics 4.3), and hands out bytes as soon as they are there. What is hard:

- the service may ignore ranges; then the one answer that comes is read from its start as a *spool*, by the task that
  got it, and everybody's reads wait for their part of it;
- an answer may be of another version; then every read of this one fails from there on (semantics 4.1);
- an answer may break off; it is resumed where it broke, as long as that gets anywhere.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import msgspec
import trio

from artifactfs import errors
from artifactfs.content.blocks import BLOCK_BYTES, Stamp
from artifactfs.content.keeper import Keeper
from artifactfs.content.memory import Budget, MemoryBlock, Pool
from artifactfs.modellab.content import Artifact, Body
from artifactfs.modellab.throttle import backoff_s

log = logging.getLogger(__name__)

# A range of one request, at most: several of them are under way for a sequential reader.
EXTENT_BLOCKS = 16
# Answers in a row that broke off without bringing anything.
_MAX_FRUITLESS = 4
# Less than this within a deadline is a drip, not progress (semantics 5.1). Arbitrary.
_MIN_PROGRESS_BYTES = 16 << 10
# How far a spool runs ahead of what was asked for, and for how long it waits for a reader to ask.
_SPOOL_AHEAD_BYTES = 8 << 20
_SPOOL_IDLE_S = 20.0


class ContentService(Protocol):
    """What is needed of Model Lab. `artifactfs.modellab.content.ContentEndpoint` is one; tests have another."""

    ranges: bool | None

    def get(
        self, artifact: Artifact, start: int, end: int | None, *, size: int | None
    ) -> AbstractAsyncContextManager[Body]:
        """Ask for bytes [start, end) of an artifact."""


class Shop(msgspec.Struct):
    """What all sources of a mount share. `deadline_s`: the longest wait without progress."""

    service: ContentService
    keeper: Keeper
    pool: Pool
    budget: Budget
    nursery: trio.Nursery
    wall_clock: Callable[[], float]
    deadline_s: float
    listing_ttl_s: float
    # This server's validators change from answer to answer, and mean nothing (semantics 4.1).
    validators_are_noise: bool = False
    probe: trio.Lock = msgspec.field(default_factory=trio.Lock)


class _OtherValidator(Exception):
    def __init__(self, validator: bytes) -> None:
        super().__init__()
        self.validator = validator


class _Fill:
    """Blocks [first, last] under way, up to byte `end` of the file."""

    def __init__(self, first: int, last: int, end: int) -> None:
        self.first, self.last, self.end = first, last, end
        self.error: Exception | None = None
        self.give_back: Callable[[], None] | None = None


class Source:
    """See the module. `size` None: unknown until an answer tells. `run_stamp`: a digest of a settled run's times."""

    def __init__(
        self, shop: Shop, artifact: Artifact, size: int | None, key: Callable[[int], bytes], run_stamp: bytes | None
    ) -> None:
        self._shop = shop
        self.artifact = artifact
        self.size = size
        self._key_of = key
        # Until the size is known, which is part of the version's name, a name that nothing else has.
        self._key = key(size) if size is not None else secrets.token_bytes(16)
        self._run_stamp = run_stamp
        self._validator: bytes | None = None
        self._fills: dict[int, _Fill] = {}
        # Blocks that are filling; the pool might drop them.
        self._filling: dict[int, MemoryBlock] = {}
        self._changed = trio.Event()
        self._received = 0
        self._scopes: set[trio.CancelScope] = set()
        self._dead: Exception | None = None
        # The spool: how far it has come (None: there is none), how far it may go.
        self._spool_at: int | None = None
        self._spool_to = 0
        self._spool_scope = trio.CancelScope()
        self._spool_asked = trio.Event()
        self.users = 0

    @property
    def dead(self) -> bool:
        """Whether the server has another version by now, so that nothing more can be read of this one."""
        return self._dead is not None

    # --- reading -------------------------------------------------------------------------------------------

    def at_hand(self, start: int, end: int) -> memoryview | None:
        """Return bytes [start, end) if one block in memory holds them all. No await."""
        index = start // BLOCK_BYTES
        base = index * BLOCK_BYTES
        block = self._filling.get(index) or self._shop.pool.get(self._key, index)
        if block is None or block.have < end - base or self._dead is not None:
            return None
        return memoryview(block.data)[start - base : end - base]

    async def read(self, start: int, end: int, *, fetch_to: int) -> bytes | memoryview:
        """Return bytes [start, end) of the file, or less where it ends; fetches to `fetch_to` where it fetches.

        Waits at most the deadline without progress. Raises Superseded, ServiceError.
        """
        pieces: list[memoryview] = []
        while start < end:
            if self.size is not None and (end := min(end, self.size)) <= start:
                break
            self._begin(start, max(end, fetch_to))
            index = start // BLOCK_BYTES
            upto = min(end, (index + 1) * BLOCK_BYTES)
            block = await self._wait_for(index, upto)
            if block is None:
                continue  # the file ended before: its size is known now
            base = index * BLOCK_BYTES
            pieces.append(memoryview(block.data)[start - base : upto - base])
            start = upto
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def ahead(self, start: int, end: int) -> int:
        """Begin to fetch [start, end) for a reader that will come there; returns how far that is under way.

        Stops where the budget for bytes ahead ends.
        """
        if self._dead is not None:
            return start
        size = self.size if self.size is not None else start
        end = min(end, size)
        while start < end:
            stop = min(end, (start // BLOCK_BYTES + EXTENT_BLOCKS) * BLOCK_BYTES)
            give_back = self._shop.budget.take(stop - start)
            if give_back is None:
                break
            if not self._begin(start, stop, give_back):
                give_back()
            start = stop
        return start

    async def learn_size(self, glance: int) -> None:
        """Find the size of a file whose listing does not give it, with one answer; it may stay unknown."""
        if self.size is None:
            await self.read(0, glance, fetch_to=glance)

    def close(self) -> None:
        """Nobody reads this any more: end what is under way."""
        for scope in self._scopes:
            scope.cancel()

    # --- waiting -------------------------------------------------------------------------------------------

    async def _wait_for(self, index: int, upto: int) -> MemoryBlock | None:
        """Wait for a block's bytes up to byte `upto` of the file; None if the file turns out to end before."""
        base = index * BLOCK_BYTES
        waited_from = self._received
        while True:
            with trio.move_on_after(self._shop.deadline_s):
                while True:
                    if self._dead is not None:
                        raise self._dead
                    block = self._filling.get(index) or self._shop.pool.get(self._key, index)
                    if block is not None and block.have >= upto - base:
                        return block
                    if self.size is not None and upto > self.size:
                        return None
                    fill = self._fills.get(index)
                    if fill is None:
                        self._begin(base, upto)
                        fill = self._fills[index]
                    await self._changed.wait()
                    if fill.error is not None:
                        raise fill.error
            if self._received - waited_from < _MIN_PROGRESS_BYTES:
                raise errors.TimedOut(f"no content came for {self._shop.deadline_s:g} s")
            waited_from = self._received

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # --- filling -------------------------------------------------------------------------------------------

    def _begin(self, start: int, end: int, give_back: Callable[[], None] | None = None) -> bool:
        """Begin to fill [start, end) where it is neither at hand nor under way. No await. Returns whether it did."""
        if self.size is not None:
            end = min(end, self.size)
        begun = False
        first: int | None = None
        for index in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 2):
            base = index * BLOCK_BYTES
            lacking = base < end and index not in self._fills and not self._has(index, min(end - base, BLOCK_BYTES))
            if lacking and first is None:
                first = index
            if first is not None and (not lacking or index - first == EXTENT_BLOCKS):
                self._start(_Fill(first, index - 1, min(end, base)), give_back)
                give_back, begun = None, True
                first = index if lacking else None
        return begun

    def _has(self, index: int, count: int) -> bool:
        block = self._filling.get(index) or self._shop.pool.get(self._key, index)
        return block is not None and block.have >= count

    def _start(self, fill: _Fill, give_back: Callable[[], None] | None) -> None:
        fill.give_back = give_back
        for index in range(fill.first, fill.last + 1):
            self._fills[index] = fill
        self._shop.nursery.start_soon(self._fill, fill)

    async def _fill(self, fill: _Fill) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await self._from_disk(fill)
                await self._from_service(fill)
                await self._keep_begun(fill)
            except errors.Superseded as error:
                self._dead = fill.error = error
                await self._forget_all()
            except Exception as error:
                fill.error = error
                if not isinstance(error, errors.ArtifactfsError):
                    log.exception("fetching content failed: this is a bug in artifactfs, please report it")
            finally:
                self._scopes.discard(scope)
                self._finish(fill)

    def _finish(self, fill: _Fill) -> None:
        """The blocks of a fill are no longer under way. No await."""
        for index in range(fill.first, fill.last + 1):
            if self._fills.get(index) is fill:
                del self._fills[index]
                if (block := self._filling.pop(index, None)) is not None and block.have:
                    # What came before it broke off is good, and the next fill goes on from there.
                    self._shop.pool.put(self._key, index, block)
        if fill.give_back is not None:
            fill.give_back()
        self._notify()

    async def _forget_all(self) -> None:
        self._filling.clear()
        self._shop.pool.discard(self._key)
        await self._shop.keeper.discard(self._key)

    # --- from the disk -------------------------------------------------------------------------------------

    async def _from_disk(self, fill: _Fill) -> None:
        if self.size is None:
            return
        indices = [i for i in range(fill.first, fill.last + 1) if not self._has(i, self._length_of(i))]
        for index, found in zip(indices, await self._shop.keeper.load(self._key, indices, self._accept), strict=True):
            if found is None or self._has(index, len(found.data)):
                continue
            if self._validator is None:
                self._validator = found.stamp.validator
            self._shop.pool.put(self._key, index, MemoryBlock(found.data, len(found.data)))
            self._received += len(found.data)
            self._notify()

    def _accept(self, stamp: Stamp) -> bool:
        """Whether a kept block may be served (semantics 4.3)."""
        shop = self._shop
        if stamp.validator is not None and self._validator is not None and stamp.validator != self._validator:
            return shop.validators_are_noise
        if stamp.session == shop.keeper.session or stamp.validator is not None:
            return True
        if stamp.run is not None:
            return stamp.run == self._run_stamp
        # A clock that was set back makes nothing young again.
        return 0 <= shop.wall_clock() - stamp.fetched_at <= shop.listing_ttl_s

    # --- from the service ----------------------------------------------------------------------------------

    async def _from_service(self, fill: _Fill) -> None:
        for index in range(fill.first, fill.last + 1):
            base = index * BLOCK_BYTES
            if self._has(index, min(fill.end - base, BLOCK_BYTES)):
                continue
            # One request for all that lacks from here on: kept blocks in between are rare, and bytes are cheap.
            await self._download(fill, self._resume_at(index), fill.end)
            return

    def _resume_at(self, index: int) -> int:
        """Return the first byte that lacks from a block on."""
        block = self._filling.get(index) or self._shop.pool.get(self._key, index)
        return index * BLOCK_BYTES + (block.have if block is not None else 0)

    async def _download(self, fill: _Fill, start: int, end: int) -> None:
        """Fetch [start, end) into blocks; resumes where an answer breaks off."""
        fruitless = 0
        suspect: bytes | None = None
        while start < end and (self.size is None or start < self.size):
            if self._spool_at is not None:
                await self._follow_spool(start, end)
                start = self._resume_from(start, end)
                continue
            error: errors.ServiceError | None = None
            try:
                async with self._answer(start, end) as body:
                    self._check(body, suspect)
                    suspect = None
                    if not body.whole:
                        await self._take_range(body, start, end)
                    elif self._spool_at is None:
                        await self._spool(fill, body, end)
            except _OtherValidator as other:
                suspect = other.validator
                continue
            except (errors.ConnectionLost, errors.TimedOut) as caught:
                error = caught
            resumed = self._resume_from(start, end)
            # An answer that brought nothing new may be followed by a better one, but not for ever.
            fruitless = 0 if resumed > start else fruitless + 1
            start = resumed
            if error is not None or fruitless:
                if fruitless >= _MAX_FRUITLESS:
                    raise error or errors.ConnectionLost("answers came without the bytes that were asked for")
                log.debug("content broke off: %s", error)
                if fruitless:
                    await trio.sleep(backoff_s(fruitless))

    @asynccontextmanager
    async def _answer(self, start: int, end: int) -> AsyncIterator[Body]:
        """Ask for [start, end); one at a time as long as it is not known whether this server grants ranges.

        Of several answers at once of a server that ignores them, each would be the whole file.
        """
        shop = self._shop
        asks_for_all = start == 0 and self.size is not None and end >= self.size
        probing = shop.service.ranges is None and not asks_for_all
        if probing:
            await shop.probe.acquire()
            if shop.service.ranges is not None:
                shop.probe.release()
                probing = False
        try:
            async with shop.service.get(self.artifact, start, end, size=self.size) as body:
                if probing:
                    shop.probe.release()
                    probing = False
                yield body
        finally:
            if probing:
                shop.probe.release()

    def _resume_from(self, start: int, end: int) -> int:
        while start < end:
            at = self._resume_at(start // BLOCK_BYTES)
            if at <= start:
                return start
            start = at
        return start

    def _check(self, body: Body, suspect: bytes | None) -> None:
        """Compare an answer with this version. Raises Superseded, ShortBody, or _OtherValidator to ask again."""
        if self.size is None:
            if body.total is not None:
                self._learned(body.total)
        elif body.total is not None and body.total != self.size:
            if body.whole and body.total < self.size:
                raise errors.ShortBody(f"a body of {body.total} bytes came for {self.size}")
            raise errors.Superseded("the server has another version of this file", body.total)
        if body.validator is None or self._shop.validators_are_noise:
            return
        if self._validator is None:
            self._validator = body.validator
        elif body.validator != self._validator:
            if suspect is None:
                raise _OtherValidator(body.validator)
            if suspect == body.validator:
                raise errors.Superseded("the server has another version of this file", self.size)
            log.info("this server's validators differ from answer to answer; they are ignored")
            self._shop.validators_are_noise = True

    async def _take_range(self, body: Body, start: int, end: int) -> None:
        at = start
        stop = min(end, body.end) if body.end is not None else end
        if stop <= start:
            return  # past the end of a file that is shorter than thought; `_check` has learned its size
        async for chunk in body.chunks:
            if at + len(chunk) > stop:
                raise errors.UnexpectedAnswer("more bytes came than the answer had announced")
            await self._take(at, chunk)
            at += len(chunk)
        if at < stop:
            raise errors.ConnectionLost(f"an answer ended {stop - at} bytes early")

    async def _take(self, at: int, chunk: bytes) -> None:
        """Put bytes that came for place `at` into their blocks; blocks that are full go to the pool and the disk."""
        view = memoryview(chunk)
        while view:
            index, offset = divmod(at, BLOCK_BYTES)
            count = min(len(view), BLOCK_BYTES - offset)
            block = self._block_for(index)
            if offset <= block.have < offset + count:
                skip = block.have - offset
                block.data[block.have : offset + count] = view[skip:count]
                block.have = offset + count
                if block.have == self._length_of(index):
                    await self._completed(index, block)
            at += count
            view = view[count:]
        self._received += len(chunk)
        self._notify()

    def _block_for(self, index: int) -> MemoryBlock:
        """Return the block to fill, with room for all of it."""
        block = self._filling.get(index) or self._shop.pool.get(self._key, index)
        length = self._length_of(index)
        if block is None or len(block.data) < length:
            # Not resized: somebody may hold a view of the shorter one.
            larger = bytearray(length)
            if block is not None:
                larger[: block.have] = memoryview(block.data)[: block.have]
            block = MemoryBlock(larger, block.have if block is not None else 0)
        if block.have < length:
            self._filling[index] = block
        return block

    def _length_of(self, index: int) -> int:
        return BLOCK_BYTES if self.size is None else max(0, min(BLOCK_BYTES, self.size - index * BLOCK_BYTES))

    async def _completed(self, index: int, block: MemoryBlock) -> None:
        self._filling.pop(index, None)
        self._shop.pool.put(self._key, index, block)
        if self.size is not None:
            await self._keep(index, block)

    async def _keep_begun(self, fill: _Fill) -> None:
        """Keep the block that a fill ends in, when it was meant to end there: what a glance fetched."""
        index = (fill.end - 1) // BLOCK_BYTES
        block = self._filling.get(index)
        if block is not None and self.size is not None and 0 < block.have < self._length_of(index):
            await self._keep(index, block)

    async def _keep(self, index: int, block: MemoryBlock) -> None:
        shop = self._shop
        validator = None if shop.validators_are_noise else self._validator
        stamp = Stamp(shop.wall_clock(), shop.keeper.session, validator, self._run_stamp)
        await shop.keeper.save(self._key, index, block.data, block.have, stamp)

    def _learned(self, size: int) -> None:
        self.size = size
        key = self._key_of(size)
        self._shop.pool.rename(self._key, key)
        self._key = key
        self._notify()

    # --- the spool: a server that ignores ranges -----------------------------------------------------------

    async def _spool(self, fill: _Fill, body: Body, wanted: int) -> None:
        """Read a whole body from its start; beyond what `fill` wants, as far as readers ask."""
        self._spool_at, self._spool_to = 0, wanted
        try:
            with trio.CancelScope() as self._spool_scope:
                async for chunk in body.chunks:
                    if self.size is not None and self._spool_at + len(chunk) > self.size:
                        raise errors.Superseded("the server has another, longer version of this file")
                    await self._take(self._spool_at, chunk)
                    self._spool_at += len(chunk)
                    if self._spool_at >= fill.end:
                        self._finish(fill)
                    if not await self._spool_may_go_on():
                        return
                if self.size is None:
                    await self._ended(self._spool_at)
                elif self._spool_at < self.size:
                    raise errors.ShortBody(f"the body ended after {self._spool_at} of {self.size} bytes")
        finally:
            self._spool_at = None
            self._notify()

    async def _spool_may_go_on(self) -> bool:
        """Wait until a reader asks for more; False if none does for a while."""
        while self._spool_at is not None and self._spool_at > self._spool_to + _SPOOL_AHEAD_BYTES:
            asked = self._spool_asked
            with trio.move_on_after(_SPOOL_IDLE_S):
                await asked.wait()
                continue
            return False
        return True

    async def _follow_spool(self, start: int, end: int) -> None:
        """Wait for the spool's next step towards `end`, or for its end; stop it if it is past `start`."""
        if self._spool_at is not None and start < self._spool_at:
            # A step back behind a body that nothing kept: it starts again.
            self._spool_scope.cancel()
        elif end > self._spool_to:
            self._spool_to = end
            asked, self._spool_asked = self._spool_asked, trio.Event()
            asked.set()
        await self._changed.wait()

    async def _ended(self, size: int) -> None:
        """A body of unknown length came to its end: now the size is known, and what came can be kept."""
        self._learned(size)
        for index in range(-(-size // BLOCK_BYTES)):
            block = self._filling.pop(index, None) or self._shop.pool.get(self._key, index)
            if block is not None:
                self._shop.pool.put(self._key, index, block)
                await self._keep(index, block)
