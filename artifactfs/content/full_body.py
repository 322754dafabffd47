"""A full body: a whole file, read from its start because the server ignores ranges (docs/semantics.md 4.2).

One fetch reads it; all other fetches of the version follow it. It runs ahead of its readers as far as there is room,
then waits for them. A body that neither the cache nor memory can hold is streamed: a step back starts it again.
"""

import logging

import trio

from artifactfs import errors
from artifactfs.content.block_fetch import BlockFetch, LargerContent, SmallerContent
from artifactfs.content.context import ContentContext
from artifactfs.content.growth import LostBytes
from artifactfs.content.known_bytes import KnownBytes
from artifactfs.content.read_stats import Stream
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef, Chunk, ContentBody
from artifactfs.util.pulse import Pulse

log = logging.getLogger(__name__)

# How long a full body waits for a read that needs its next bytes; shorter while other requests wait for a connection.
_IDLE_S = 20.0
_IDLE_CROWDED_S = 1.0
# How often it looks whether other requests wait.
_LOOK_S = 0.25


class FullBody:
    """See the module. `at`: the offset that it has reached."""

    def __init__(
        self,
        context: ContentContext,
        artifact: ArtifactRef,
        blocks: VersionBlocks,
        body: ContentBody,
        fetch: BlockFetch,
    ) -> None:
        self.at = 0
        self._context = context
        self._blocks = blocks
        self._body = body
        self._is_first = blocks.is_untouched
        self._growths = blocks.uncompared_growths
        # What the caches have lost of that, this body has to have, too; not what came before a drop or with other keys.
        known = blocks.known if blocks.received and not blocks.must_match else KnownBytes()
        self._lost = [LostBytes(digest) for digest in {known.first, known.last} if digest is not None]
        self._fetch = fetch
        # The offsets up to which reads wait, and up to which read-ahead is wanted.
        self._wanted_to = 0 if fetch.ahead else fetch.end
        self._ahead_to = fetch.end
        self._wanted = Pulse()
        self._scope = trio.CancelScope()
        size = blocks.size
        self._stream = Stream(artifact, size, size is None or context.fits(size))

    async def run(self) -> None:
        """Read the body to its end, or until it is idle. Raises LargerContent, SmallerContent, ConnectionLost."""
        context, stream = self._context, self._stream
        context.active_streams += 1
        context.stats.streams.append(stream)
        if not stream.fits:
            context.stats.streamed += 1
            log.info("a body of %d bytes fits neither the cache nor memory: a step back starts it again", stream.size)
        try:
            with self._scope:
                await self._read()
        finally:
            context.active_streams -= 1
            context.stats.streams.remove(stream)

    async def _read(self) -> None:
        blocks, size, received = self._blocks, self._blocks.size, 0
        last: Chunk = b""
        async for chunk in self._body.chunks:
            received = self._stream.came_to = received + len(chunk)
            if size is not None and received > size:
                raise LargerContent(None)
            if received == size and self._body.total is None:
                # Without a length the last byte counts only at the end of the body: a longer body is another version.
                last = chunk
                continue
            await self._advance(received - len(chunk), chunk)
            if not await self._may_continue():
                return
        await self._advance(received - len(last), last)
        if received == size:
            blocks.is_listed_only = False
        elif not self._body.is_framed:
            # Nothing tells a connection that was cut from the end of the body.
            of_all = "bytes, and nothing tells the length" if size is None else f"of {size} bytes"
            raise errors.ShortBody(f"the connection ended after {received} {of_all}")
        elif size is None:
            blocks.learn_size(received)
            await blocks.persist_range(0, received)
        else:
            raise SmallerContent(received, whole=True, is_first=self._is_first)

    def want(self, end: int, *, ahead: bool = False) -> None:
        """A read waits for the bytes before `end`; or, with `ahead`, they are wanted as read-ahead."""
        if not ahead and end > self._wanted_to:
            self._wanted_to = end
            self._wanted.notify()
        elif ahead and end > self._ahead_to:
            self._ahead_to = end
            self._wanted.notify()

    def restart(self) -> None:
        """End this body, for a step back behind it: the next request starts from byte 0."""
        self._context.stats.restarted += 1
        self._scope.cancel()

    async def _advance(self, offset: int, chunk: Chunk) -> None:
        if self._blocks.uncompared_growths != self._growths:
            # After a comparison it goes on: a file that grows all the time would never be read to its end.
            raise errors.ConnectionLost("the file grew while its body came")
        fetch = self._fetch
        self.at = offset + len(chunk)
        fetch.at = max(fetch.at, min(self.at, fetch.end))
        if self._differs(offset, memoryview(chunk)):
            # A body without a length and a validator shows nothing else of its version before its end.
            raise await self._blocks.supersede(self._body.total, self._body.validator)
        await self._blocks.receive(offset, chunk, ahead=True)
        if fetch.at == fetch.end:
            fetch.finish(fetch)

    def _differs(self, offset: int, view: memoryview) -> bool:
        """Whether bytes of the body contradict those that are known of an earlier answer."""
        if any(lost.differs(offset, view) for lost in self._lost):
            return True
        while view:
            index, start = divmod(offset, self._context.tuning.block_bytes)
            count = min(len(view), self._context.tuning.block_bytes - start)
            block = self._blocks.block(index)
            if block is not None and block.differs(start, view[:count]):
                return True
            offset, view = offset + count, view[count:]
        return False

    async def _may_continue(self) -> bool:
        """Wait until the next bytes are wanted, or may be fetched ahead; False if that takes too long."""
        idle_s = 0.0
        while self.at > self._wanted_to and not self._may_run_ahead():
            # The kernel caps in-flight reads, so this body's readers may be queued behind readers that need its
            # connection.
            if idle_s >= (_IDLE_CROWDED_S if self._context.service.is_saturated else _IDLE_S):
                return False
            with trio.move_on_after(_LOOK_S):
                await self._wanted.wait()
                idle_s = 0.0
                continue
            idle_s += _LOOK_S
        return True

    def _may_run_ahead(self) -> bool:
        """Whether to go on although no read waits for the next bytes."""
        context, size = self._context, self._blocks.size
        # At most as much again as was read, so that reading a few bytes at the start stays cheap.
        allowance = min(self._wanted_to, context.tuning.full_body_ahead_bytes)
        if self.at <= max(self._ahead_to, self._wanted_to + allowance):
            return context.pool.readahead_capacity > 0
        # To its end, if other requests need the connection.
        return context.service.is_saturated and size is not None and context.has_room_for(size, size - self.at)
