"""One version of one file under one account, shared by all of its readers.

Each missing block is loaded from the disk or fetched from the service once, whatever the number of readers (semantics
4.3). A `BlockFetch` runs in the mount's nursery and goes on when its readers give up; it ends with the last handle.
"""

import logging
from collections.abc import Callable, Iterable

import msgspec
import trio

from artifactfs import errors
from artifactfs.content.block_fetch import BlockFetch, SmallerContent
from artifactfs.content.context import ContentContext
from artifactfs.content.fetcher import Fetcher
from artifactfs.content.growth import Growth, prove
from artifactfs.content.proof_turns import ProofTurns
from artifactfs.content.stall import Stall
from artifactfs.content.version_blocks import HasSuccessor, VersionBlocks
from artifactfs.domain import ArtifactRef, ContentVersion
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

# Fetches for one read that each succeeded and left nothing, since the pool evicted the bytes at once. Arbitrary.
_MAX_FETCHES = 16


class SharedFile:
    """See the module. `key_of(size)`: the version's key in the caches; `key`, `earlier_validators`: see VersionBlocks.

    `sized_at`: when an answer last told the size (trio's clock); None: now.
    """

    def __init__(
        self,
        context: ContentContext,
        version: ContentVersion,
        key_of: Callable[[int | None], bytes],
        key: bytes | None = None,
        earlier_validators: Iterable[bytes] = (),
        sized_at: float | None = None,
    ) -> None:
        self._context = context
        self._block_bytes = context.tuning.block_bytes
        # Of the last opening, or of the last growth.
        self.version = version
        size, stamp = version.size_bytes, version.content_stamp
        self.blocks = VersionBlocks(context, size, key_of, stamp, key, earlier_validators, not version.settled)
        artifact = version.named_artifact
        self._fetcher = Fetcher(context, artifact, self.blocks, self._grow_by_answer, self._shrink_by_answer)
        self._growing = ProofTurns()
        self.sized_at = trio.current_time() if sized_at is None else sized_at
        # The fetches that are under way. No two have a byte in common.
        self._fetches: list[BlockFetch] = []
        self._scopes: set[trio.CancelScope] = set()
        self._stall = Stall(context, self.blocks)
        self.refcount = 0

    @property
    def size(self) -> int | None:
        """Bytes of the file; None before an answer tells."""
        return self.blocks.size

    @property
    def lacks_length(self) -> bool:
        """Whether only a listing has told the size so far, and answers do not tell it before the end of a body."""
        return self.blocks.is_listed_only and self.blocks.lacks_length

    @property
    def lacks_ranges(self) -> bool:
        """Whether the service is known to send whole bodies only."""
        return self._context.service.ranges is False

    @property
    def room_bytes(self) -> int:
        """The longest body that a cache has room for."""
        return self._context.room_bytes

    @property
    def dead(self) -> bool:
        """Whether nothing more can be read: the version is superseded, or has a successor."""
        return self.blocks.dead

    # --- growing -------------------------------------------------------------------------------------------

    async def grow(
        self, version: ContentVersion, max_age_s: float | None = None, *, doubted_bytes: int | None = None
    ) -> None:
        """Let the version grow to the size that a listing gives, if its contents are continued (growth.py).

        Where no listing gives a size, the contents are asked once an answer has told it more than `max_age_s` ago
        (None: the time to live of a listing); and where a listing gives less (`doubted_bytes`). The size may come out
        smaller, where the listing runs ahead of the contents, or larger. Raises Superseded, ServiceError.
        """
        async with self._growing.turn():
            # A read past the end of a version that is gone must fail, and not find the end of the file.
            self.blocks.check_alive()
            size, listed = self.size, version.size_bytes
            if size is None:
                return
            if listed is None:
                # No listing tells the size, so only another time shows that the file may have grown.
                if version.content_stamp not in (None, self.blocks.content_stamp) and not version.settled:
                    await self._grow(version, None)
                return
            # Without a size in the listing, only an answer shows growth.
            max_age_s = self._context.listing_ttl_s if max_age_s is None else max_age_s
            sized_since = max(self._context.sizes_stale_at, trio.current_time() - max_age_s)
            is_old = not version.is_listed and self.sized_at < sized_since
            is_doubted = doubted_bytes is not None
            if listed > size or ((is_old or is_doubted) and not version.settled):
                await self._grow(version, listed if version.is_listed and not is_doubted else None, doubted_bytes)

    async def _grow_by_answer(self, total: int | None) -> None:
        """Do the same for a size that an answer gives (None: unknown), while the run goes on."""
        async with self._growing.turn():
            if total is not None and total <= (self.size or 0):
                return
            if self.version.settled or self.version.lineage is None:
                if total is None or self.size is not None:
                    raise await self.blocks.supersede(total)
                self.blocks.learn_size(total)
                return
            await self._grow(msgspec.structs.replace(self.version, size_bytes=total), total)

    async def _shrink_by_answer(self, smaller: SmallerContent) -> None:
        """Have the size of a smaller answer, where the listing of a run that goes on runs ahead of the contents.

        That is so where nothing of them was known: otherwise they were cut, and are another version. An empty body is
        one, too, since it may come in place of a file that is gone. Raises Superseded; ShortBody in a settled run.
        """
        size, settled = smaller.size, self.version.settled
        if smaller.is_first and size and not settled:
            self.blocks.learn_size(size)
            self.blocks.is_listed_only = False
            await self.blocks.persist_range(0, size)
        elif smaller.whole and settled:
            raise errors.ShortBody(f"a body of {size} bytes came for {self.size}", size)
        else:
            raise await self.blocks.supersede(size)

    async def _grow(self, version: ContentVersion, listed_bytes: int | None, doubted_bytes: int | None = None) -> None:
        self._growing.check()
        artifact = version.named_artifact
        moved = version.content_stamp not in (None, self.blocks.content_stamp)
        growth = await prove(
            self._context, artifact, self.blocks, listed_bytes, moved=moved, doubted_bytes=doubted_bytes
        )
        if self._become(version, artifact, growth) and growth.news:
            start = growth.known_bytes
            await self.blocks.receive(start, growth.news, ahead=True)
            await self.blocks.persist_range(start, start + len(growth.news))

    @no_checkpoint
    def _become(self, version: ContentVersion, artifact: ArtifactRef, growth: Growth) -> bool:
        """Be the larger version from now on, if that is still wanted: place, stamp and size change together.

        Returns whether it is larger, or its size was not known.
        """
        self.blocks.check_alive()
        self.version = version
        self.sized_at = trio.current_time()
        self._fetcher.artifact = artifact
        self.blocks.content_stamp = version.content_stamp
        is_first = self.size is None and version.size_bytes is not None
        if is_first or growth.size_bytes > max(growth.known_bytes, self.size or 0):
            self.blocks.grow(growth.size_bytes, growth.validator, compared=growth.compared)
            return True
        if self.size is None:
            self.blocks.go_on(growth.validator)
        return False

    # --- reading -------------------------------------------------------------------------------------------

    @no_checkpoint
    def try_view(self, start: int, end: int) -> memoryview | None:
        """Return bytes [start, end) if one block in memory has them all."""
        index = start // self._block_bytes
        base = index * self._block_bytes
        return None if self.blocks.dead else self.blocks.view(index, start - base, end - base)

    def count_memory_read(self, count: int) -> None:
        """Count a read of `count` bytes that memory answered."""
        stats = self._context.stats
        stats.memory_reads += 1
        stats.memory_bytes += count

    def is_cached(self, offset: int) -> bool:
        """Whether memory has the byte at an offset."""
        return self.blocks.contiguous_end(offset, offset + 1) > offset

    async def read(self, start: int, end: int, *, fetch: tuple[int, int]) -> bytes | memoryview:
        """Return bytes [start, end) of the file, or less where it ends; what is missing of range `fetch` is fetched.

        Waits at most the deadline without progress. Raises Superseded, ServiceError, HasSuccessor.
        """
        parts: list[memoryview] = []
        while start < end:
            if self.size is not None and (end := min(end, self.size)) <= start:
                break
            self.blocks.check_alive()
            self._start_fetches(min(start, fetch[0]), max(end, fetch[1]))
            fetch = start, end
            index = start // self._block_bytes
            upto = min(end, (index + 1) * self._block_bytes)
            view = await self._wait_for(index, start, upto)
            if view is None:
                continue  # the file ends before: its size is known now
            parts.append(view)
            start = upto
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def start_readahead(self, start: int, end: int) -> int:
        """Begin to fetch [start, end) ahead of a reader, as far as the budget allows; returns how far that is."""
        if self.dead:
            return start
        end = min(end, self.size if self.size is not None else start)
        while start < end:
            stop = min(end, (start // self._block_bytes + self._context.tuning.extent_blocks) * self._block_bytes)
            if not self._context.pool.readahead_capacity:
                break
            if (give_back := self._context.budget.take(stop - start)) is None:
                break
            if not self._start_fetches(start, stop, give_back):
                give_back()
            start = stop
        return start

    async def fetch_ahead(self) -> None:
        """Fetch the first block before a reader comes, if the budget allows it. Raises Superseded, ServiceError."""
        self.start_readahead(0, self._block_bytes)
        fetch = self._fetch_of(0)
        while fetch is not None and not fetch.done:
            await self.blocks.changed.wait()
        if fetch is not None and fetch.error is not None:
            raise fetch.error

    def readahead_capacity(self) -> int:
        """Return the largest read-ahead of a reader, in bytes."""
        return self._context.readahead_capacity()

    def on_seek(self) -> None:
        """Let the pool evict the read-ahead of a reader that went elsewhere, unless there are other readers."""
        if self.refcount == 1:
            self.blocks.demote_readahead()

    def close(self) -> None:
        """End all fetches: the last handle was closed."""
        self.blocks.demote_readahead()
        self._cancel()

    @no_checkpoint
    def end_scope(self, error: Callable[[], Exception] = HasSuccessor) -> None:
        """End all reads with an error, and all fetches."""
        self.blocks.end_scope(error)
        self._cancel()

    @property
    def has_proof(self) -> bool:
        """Whether the next answer will show that the contents are still those that the readers have."""
        is_named = self.blocks.validator is not None and not self._context.validators_unreliable
        return is_named and self.size is not None and self.version.is_listed

    def successor(self, key_of: Callable[[int | None], bytes]) -> "SharedFile":
        """Return this version with nothing cached. An open file keeps its size and its validator."""
        new = SharedFile(self._context, msgspec.structs.replace(self.version, size_bytes=self.size), key_of)
        new.blocks.is_listed_only = False
        if self.blocks.validator is not None:
            new.blocks.set_validator(self.blocks.validator)
        new.blocks.must_match, new.blocks.known = self.blocks.must_match, self.blocks.known
        new.refcount = self.refcount
        return new

    def _cancel(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    async def _wait_for(self, index: int, start: int, upto: int) -> memoryview | None:
        """Wait for bytes [start, upto) of the file, in block `index`; None if the file turns out to end before."""
        blocks, context = self.blocks, self._context
        base = index * self._block_bytes
        # How far a full body has come on its way to here: after a step back it brings bytes again that count no more.
        progress, near = blocks.progress, self._fetcher.came_near(start)
        nearest = near
        fetch: BlockFetch | None = None
        fetches = 0
        if blocks.view(index, start - base, upto - base) is None:
            self._stall.check()
        while True:
            with trio.move_on_after(context.deadline_s):
                while True:
                    blocks.check_alive()
                    if (view := blocks.view(index, start - base, upto - base)) is not None:
                        return view
                    if self.size is not None and upto > self.size:
                        return None
                    # What failed ahead of all readers is asked for once more.
                    if fetch is not None and fetch.error is not None and not fetch.ahead:
                        raise fetch.error
                    missing = blocks.contiguous_end(start, upto)
                    if (fetch := self._fetch_of(missing)) is None:
                        if fetches == _MAX_FETCHES:
                            raise errors.ConnectionLost("content came and was dropped: memory is too small for it")
                        fetches += 1
                        self._start_fetches(missing, upto)
                        fetch = self._fetch_of(missing)
                    self._fetcher.want(upto)
                    await blocks.changed.wait()
                    nearest = max(nearest, self._fetcher.came_near(start))
            if max(blocks.progress - progress, nearest - near) < context.tuning.min_progress_bytes:
                raise self._stall.begin()
            progress, near = blocks.progress, nearest

    # --- fetching ------------------------------------------------------------------------------------------

    @no_checkpoint
    def _start_fetches(self, start: int, end: int, give_back: Callable[[], None] | None = None) -> bool:
        """Fetch [start, end) where it is neither in memory nor being fetched. Returns whether any began.

        `give_back`: it is read-ahead, and this returns its budget.
        """
        if self.size is not None:
            end = min(end, self.size)
        ahead = give_back is not None
        begun = False
        while start < end:
            if (reached := self.blocks.contiguous_end(start, end)) > start:
                start = reached
            elif (other := self._fetch_of(start)) is not None:
                start = other.end
            else:
                extent_end = (start // self._block_bytes + self._context.tuning.extent_blocks) * self._block_bytes
                following = (fetch.start for fetch in self._fetches if fetch.start > start)
                stop = min(self.blocks.next_cached(start, end), extent_end, *following)
                self._start(BlockFetch(start, stop, ahead=ahead, finish=self._finish), give_back)
                give_back, begun, start = None, True, stop
        return begun

    def _fetch_of(self, offset: int) -> BlockFetch | None:
        """Return the fetch under way that is to bring the byte at an offset."""
        return next((fetch for fetch in self._fetches if fetch.start <= offset < fetch.end), None)

    def _start(self, fetch: BlockFetch, give_back: Callable[[], None] | None) -> None:
        fetch.give_back = give_back
        self._context.active_downloads += not self._fetches
        self._fetches.append(fetch)
        self.blocks.pin(fetch.blocks(self._block_bytes))
        # The scope is made here, so that `_cancel` ends a task that has not run yet.
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._context.nursery.start_soon(self._run, fetch, scope)

    async def _run(self, fetch: BlockFetch, scope: trio.CancelScope) -> None:
        blocks = self.blocks
        with scope:
            try:
                indices = fetch.blocks(self._block_bytes)
                loaded = await blocks.load(indices, ahead=fetch.ahead)
                while (at := blocks.contiguous_end(fetch.at, fetch.end, loaded)) < fetch.end and not fetch.done:
                    fetch.at, fetch.upto = at, blocks.next_cached(at, fetch.end, loaded)
                    await self._fetcher.run(fetch)
                    if fetch.at < fetch.upto:
                        break  # the file ends before
                # A fetch that was to end within a block, as that of a file's head. Whole blocks are saved already.
                block = blocks.block(indices[-1])
                if not fetch.done and block is not None and block.count < blocks.length_of(indices[-1]):
                    await blocks.persist(indices[-1], block)
            except Exception as error:
                fetch.error = error
                if blocks.dead or isinstance(error, errors.Superseded):
                    # The other fetches are of the version that is gone.
                    self._scopes.discard(scope)
                    self._cancel()
                if not isinstance(error, errors.ArtifactfsError):
                    log.exception("fetching content failed: %s", errors.unexpected())
            finally:
                self._scopes.discard(scope)
                self._finish(fetch)
                if not self.refcount:
                    blocks.demote_readahead()

    @no_checkpoint
    def _finish(self, fetch: BlockFetch) -> None:
        """Mark the blocks of a fetch as no longer being fetched, and wake the readers."""
        if not fetch.done:
            fetch.done = True
            self._fetches.remove(fetch)
            self._context.active_downloads -= not self._fetches
            if fetch.give_back is not None:
                fetch.give_back()
        busy = {index for other in self._fetches for index in other.blocks(self._block_bytes)}
        self.blocks.unpin(self.blocks.filling.keys() - busy - self._fetcher.being_passed)
        self.blocks.changed.notify()
