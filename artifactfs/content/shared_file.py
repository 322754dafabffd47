"""One version of one file, for everybody who reads it: what is at hand, what is under way.

A `SharedFile` brings blocks from the cache on disk or from the service, each once, whatever the number of readers
(semantics 4.3), and hands out bytes as soon as they are there. Readers wait; what they wait for is a `BlockFetch`,
which runs in the mount's nursery and goes on when they give up.
"""

import logging
from collections.abc import Callable

import msgspec
import trio

from artifactfs import errors
from artifactfs.content.context import ContentContext
from artifactfs.content.fetcher import BlockFetch, Download
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef

log = logging.getLogger(__name__)

# Fetches for one read of which each went well and left nothing, because others took the room at once. Arbitrary.
_MAX_FILLS = 16
# After a wait in vain, others fail at once for this long (semantics 5.1: a probe at most every 5 s).
_STALLED_S = 5.0


class SharedFile:
    """See the module. `size` None: unknown until an answer tells. `run_stamp`: a digest of a settled run's times."""

    def __init__(
        self,
        shop: ContentContext,
        artifact: ArtifactRef,
        size: int | None,
        name: Callable[[int], bytes],
        run_stamp: bytes | None,
    ) -> None:
        self._shop = shop
        self._block_bytes = shop.tuning.block_bytes
        self._artifact = artifact
        self._run_stamp = run_stamp
        self._pieces = VersionBlocks(shop, size, name, run_stamp)
        asked = artifact
        if run_stamp is not None:
            # With the size: a cache on the way would answer with a file of another one, too. The stamp's is fixed.
            asked = msgspec.structs.replace(
                artifact, version=run_stamp.hex() + (f"{size:x}" if size is not None else "")
            )
        self._download = Download(shop, asked, self._pieces)
        self._fills: dict[int, BlockFetch] = {}
        self._scopes: set[trio.CancelScope] = set()
        # What had come when a wait ended in vain, and until when no other wait begins unless there is progress.
        self._stalled_at = -1
        self._stalled_until = 0.0
        self.users = 0

    @property
    def size(self) -> int | None:
        """Bytes of the file; None as long as no answer told."""
        return self._pieces.size

    @property
    def dead(self) -> bool:
        """Whether the server has another version by now, so that nothing more can be read of this one."""
        return self._pieces.dead

    # --- reading -------------------------------------------------------------------------------------------

    def at_hand(self, start: int, end: int) -> memoryview | None:
        """Return bytes [start, end) if one block in memory holds them all. No await."""
        index = start // self._block_bytes
        base = index * self._block_bytes
        return None if self._pieces.dead else self._pieces.view(index, start - base, end - base)

    def read_at_hand(self, count: int) -> None:
        """Count a read of `count` bytes that memory answered."""
        tally = self._shop.tally
        tally.memory_reads += 1
        tally.memory_bytes += count

    async def read(self, start: int, end: int, *, fetch_to: int) -> bytes | memoryview:
        """Return bytes [start, end) of the file, or less where it ends; fetches to `fetch_to` where it fetches.

        Waits at most the deadline without progress. Raises Superseded, ServiceError.
        """
        parts: list[memoryview] = []
        first, pieces = start, self._pieces
        while start < end:
            if self.size is not None and (end := min(end, self.size)) <= start:
                break
            self._pieces.check_alive()
            self._begin(start, max(end, fetch_to))
            index = start // self._block_bytes
            upto = min(end, (index + 1) * self._block_bytes)
            view = await self._wait_for(index, start, upto)
            if view is None:
                continue  # the file ended before: its size is known now
            parts.append(view)
            start = upto
            if pieces is not self._pieces:
                # The keys are another account's by now: no read has bytes of both.
                parts, start, pieces = [], first, self._pieces
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def ahead(self, start: int, end: int) -> int:
        """Begin to fetch [start, end) for a reader that will come there; returns how far that is under way.

        Stops where the budget for bytes ahead ends.
        """
        if self.dead:
            return start
        size = self.size if self.size is not None else start
        end = min(end, size)
        while start < end:
            stop = min(end, (start // self._block_bytes + self._shop.tuning.extent_blocks) * self._block_bytes)
            if not self._shop.pool.readahead_capacity or (give_back := self._shop.budget.take(stop - start)) is None:
                break
            if not self._begin(start, stop, give_back):
                give_back()
            start = stop
        return start

    async def learn_size(self, glance: int) -> None:
        """Find the size of a file whose listing does not give it, with one answer; it may stay unknown."""
        if self.size is None:
            await self.read(0, glance, fetch_to=glance)

    async def look(self, glance: int) -> None:
        """See that the server has this version, with one answer, unless its start is at hand or kept."""
        end = min(glance, self.size or 0)
        if end and self.at_hand(0, end) is None:
            await self.read(0, end, fetch_to=glance)

    def readahead_capacity(self) -> int:
        """Return how far ahead of a reader to fetch at most."""
        return self._shop.readahead_capacity()

    def on_seek(self) -> None:
        """A reader went elsewhere: what was fetched ahead of him will not be read soon, unless by others."""
        if self.users == 1:
            self._pieces.demote_readahead()

    def close(self) -> None:
        """Nobody reads this any more: end what is under way."""
        self._pieces.demote_readahead()
        self._cancel()

    def switch_account(self, name: Callable[[int], bytes]) -> None:
        """The keys are another account's (semantics 6.3): what is at hand goes, and what is under way. No await.

        `name`: of this version from now on. Who waits waits on, for what the new keys bring; it must be this version.
        Who has read a part goes on: project and path are ids of the service's own, which no two accounts share.
        """
        if self.dead:
            return
        for fill in set(self._fills.values()):
            self._finish(fill)
        old = self._pieces
        old.demote_readahead()
        # What still runs has these pieces and this download, and leaves the new ones alone.
        self._cancel()
        self._pieces = VersionBlocks(self._shop, old.size, name, self._run_stamp)
        if old.validator is not None:
            self._pieces.set_validator(old.validator)
        self._download = Download(self._shop, self._artifact, self._pieces)
        old.notify()

    def _cancel(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    async def _wait_for(self, index: int, start: int, upto: int) -> memoryview | None:
        """Wait for a block's bytes [start, upto) of the file; None if the file turns out to end before."""
        pieces = self._pieces
        base = index * self._block_bytes
        waited_from = pieces.received
        fill: BlockFetch | None = None
        fills = 0
        if (
            trio.current_time() < self._stalled_until
            and waited_from - self._stalled_at < self._shop.tuning.min_progress_bytes
            and pieces.view(index, start - base, upto - base) is None
        ):
            # The kernel asks again, piece by piece, for what has just failed: not another deadline for each.
            raise errors.TimedOut("no content came a moment ago")
        while True:
            with trio.move_on_after(self._shop.deadline_s):
                while True:
                    if pieces is not self._pieces:
                        # Another account's by now: nothing of this has come yet.
                        pieces, waited_from = self._pieces, 0
                    pieces.check_alive()
                    if (view := pieces.view(index, start - base, upto - base)) is not None:
                        return view
                    if self.size is not None and upto > self.size:
                        return None
                    if fill is not None and fill.error is not None:
                        raise fill.error
                    if index not in self._fills:
                        if fills == _MAX_FILLS:
                            raise errors.ConnectionLost("content came and was dropped: memory is too small for it")
                        fills += 1
                        self._begin(base, upto)
                    fill = self._fills[index]
                    self._download.asked_for(upto)
                    await pieces.changed.wait()
            if pieces.received - waited_from < self._shop.tuning.min_progress_bytes:
                self._stalled_at, self._stalled_until = pieces.received, trio.current_time() + _STALLED_S
                raise errors.TimedOut(f"no content came for {self._shop.deadline_s:g} s")
            waited_from = pieces.received

    # --- filling -------------------------------------------------------------------------------------------

    def _begin(self, start: int, end: int, give_back: Callable[[], None] | None = None) -> bool:
        """Begin to fill [start, end) where it is neither at hand nor under way. No await. Returns whether it did."""
        if self.size is not None:
            end = min(end, self.size)
        ahead = give_back is not None
        begun = False
        first: int | None = None
        for index in range(start // self._block_bytes, (end - 1) // self._block_bytes + 2):
            base = index * self._block_bytes
            lacking = (
                base < end
                and index not in self._fills
                and not self._pieces.has(index, min(end - base, self._block_bytes))
            )
            if lacking and first is None:
                first = index
            if first is not None and (not lacking or index - first == self._shop.tuning.extent_blocks):
                self._start(
                    BlockFetch(
                        first, index - 1, first * self._block_bytes, min(end, base), ahead=ahead, finish=self._finish
                    ),
                    give_back,
                )
                give_back, begun = None, True
                first = index if lacking else None
        return begun

    def _start(self, fill: BlockFetch, give_back: Callable[[], None] | None) -> None:
        fill.give_back = give_back
        self._shop.fetched += not self._fills
        for index in range(fill.first, fill.last + 1):
            self._fills[index] = fill
        # Made here: a task that has not run yet is ended like any.
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._shop.nursery.start_soon(self._fill, fill, scope)

    async def _fill(self, fill: BlockFetch, scope: trio.CancelScope) -> None:
        pieces = self._pieces
        with scope:
            try:
                loaded = await pieces.load(range(fill.first, fill.last + 1), ahead=fill.ahead)
                while (at := pieces.contiguous_end(fill.at, fill.end, loaded)) < fill.end and not fill.done:
                    fill.at, fill.upto = at, pieces.next_cached(at, fill.end, loaded)
                    await self._download.run(fill)
                    if fill.at < fill.upto:
                        break  # the file ended before
                    loaded.update(range(at // self._block_bytes, fill.upto // self._block_bytes))
                # The block that it ends in, when it was meant to end within: what a glance fetched.
                if not fill.done and fill.end % self._block_bytes and fill.end != pieces.size:
                    await pieces.keep(fill.last, pieces.block(fill.last))
            except errors.Superseded as error:
                fill.error = error
                # What else is under way is of the version that is gone.
                self._scopes.discard(scope)
                self._cancel()
            except Exception as error:
                fill.error = error
                if not isinstance(error, errors.ArtifactfsError):
                    log.exception("fetching content failed: %s", errors.unexpected())
            finally:
                self._scopes.discard(scope)
                self._finish(fill)
                if not self.users:
                    pieces.demote_readahead()

    def _finish(self, fill: BlockFetch) -> None:
        """The blocks of a fill are no longer under way. No await."""
        if not fill.done:
            fill.done = True
            indices = range(fill.first, fill.last + 1)
            for index in indices:
                del self._fills[index]
            self._shop.fetched -= not self._fills
            self._pieces.settle(indices)
            if fill.give_back is not None:
                fill.give_back()
        self._pieces.notify()
