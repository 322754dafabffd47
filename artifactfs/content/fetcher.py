"""From the service into the pieces of one version: asks for what lacks, checks every answer, resumes what breaks off.

What is hard:

- the service may ignore ranges; then the one answer that comes is read from its start as a *spool*, by the fill that
  got it, and all other fills follow it;
- an answer may be of another version; then nothing of it counts (semantics 4.1);
- an answer may break off; it is resumed where it broke, as long as that gets anywhere.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from artifactfs import errors
from artifactfs.content.block_format import BLOCK_BYTES
from artifactfs.content.context import ContentContext
from artifactfs.content.read_stats import Stream
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef, ContentBody
from artifactfs.util.backoff import backoff_s

log = logging.getLogger(__name__)

# Answers in a row that broke off without bringing anything.
_MAX_FRUITLESS = 4
# How far a spool runs ahead of what was asked for. Arbitrary.
_SPOOL_AHEAD_BYTES = 8 << 20
# For how long a spool waits for a reader to ask, also where others wait for its connection, and how often it looks.
_SPOOL_IDLE_S = 20.0
_SPOOL_IDLE_CROWDED_S = 1.0
_SPOOL_LOOK_S = 0.25
# For how long a request waits for another file's to tell whether this server grants ranges: that one may stall.
# Arbitrary.
_PROBE_WAIT_S = 1.0


class BlockFetch:
    """Bytes of a file under way: of blocks [first, last], up to byte `end` of the file, come as far as byte `at`.

    `upto`: to where they lack; what follows there is at hand.
    `ahead`: nobody has asked for it yet. `finish` says that it is no longer under way; then it is `done`.
    """

    def __init__(self, first: int, last: int, end: int, *, ahead: bool, finish: Callable[["BlockFetch"], None]) -> None:
        self.first, self.last, self.end = first, last, end
        self.ahead = ahead
        self.at = first * BLOCK_BYTES
        self.upto = end
        self.done = False
        self.error: Exception | None = None
        self.give_back: Callable[[], None] | None = None
        self.finish = finish


class _OtherValidator(Exception):
    def __init__(self, validator: bytes) -> None:
        super().__init__()
        self.validator = validator


class Download:
    """Everything that is fetched of one version."""

    def __init__(self, shop: ContentContext, artifact: ArtifactRef, pieces: VersionBlocks) -> None:
        self._shop = shop
        self._artifact = artifact
        self._pieces = pieces
        # Who asks while the answer may be the whole body.
        self._turn = trio.Lock()
        # The spool: how far it has come (None: there is none), to where readers wait for it, and to where they will.
        self._spool_at: int | None = None
        self._spool_to = 0
        self._spool_wish = 0
        self._spool_scope = trio.CancelScope()
        self._spool_asked = trio.Event()

    async def run(self, fill: BlockFetch) -> None:
        """Fetch a fill from `at` to `upto`. Raises Superseded, ServiceError."""
        pieces = self._pieces
        fruitless = 0
        suspect: bytes | None = None
        while not fill.done and fill.at < fill.upto and (pieces.size is None or fill.at < pieces.size):
            if self._spool_at is not None:
                await self._follow(fill, self._spool_at)
                continue
            came_to = fill.at
            pieces.hold(came_to)
            error: errors.ServiceError | None = None
            answered = False
            try:
                async with self._answer(fill) as body:
                    if body is None:
                        continue
                    answered = True
                    await self._receive(fill, body, suspect)
            except _OtherValidator as other:
                suspect = other.validator
                continue
            except (errors.ConnectionLost, errors.TimedOut) as caught:
                if not answered:
                    raise  # asked for again already, as often as it is worth
                error = caught
            suspect = None
            # An answer that brought nothing new may be followed by a better one, but not for ever.
            fruitless = 0 if fill.at > came_to else fruitless + 1
            if fill.done or (error is None and not fruitless):
                continue
            if fruitless >= _MAX_FRUITLESS:
                raise error or errors.ConnectionLost("answers came without the bytes that were asked for")
            log.debug("content broke off: %s", error)
            if fruitless:
                await trio.sleep(backoff_s(fruitless))

    @asynccontextmanager
    async def _answer(self, fill: BlockFetch) -> AsyncIterator[ContentBody | None]:
        """Ask for a fill; None if somebody else's answer turned out to bring everything.

        Of several answers at once of a server that ignores ranges, each would be the whole file: so one asks at a time
        where that may be, of one file, and for a moment of one mount as long as it is not known of the server.
        """
        shop, size = self._shop, self._pieces.size
        async with AsyncExitStack() as turn:
            if shop.service.ranges is not True:
                await turn.enter_async_context(self._turn)
            if shop.service.ranges is None and not (fill.at == 0 and size is not None and fill.upto >= size):
                with trio.move_on_after(_PROBE_WAIT_S):
                    await turn.enter_async_context(shop.probe)
            if self._spool_at is not None:
                yield None
                return
            async with shop.service.get(self._artifact, fill.at, fill.upto, size=size) as body:
                # Nothing is awaited from here until a spool has begun: the locks' releases do not.
                await turn.aclose()
                yield body

    async def _receive(self, fill: BlockFetch, body: ContentBody, suspect: bytes | None) -> None:
        await self._check(body, suspect)
        if not body.whole:
            await self._take_range(fill, body)
        elif self._spool_at is None:  # otherwise ranges were ignored only now, and somebody else was first
            await self._spool(fill, body)

    async def _check(self, body: ContentBody, suspect: bytes | None) -> None:
        """Compare an answer with this version. Raises Superseded, ShortBody, or _OtherValidator to ask again."""
        pieces = self._pieces
        if pieces.size is None:
            if body.total is not None:
                pieces.learn_size(body.total)
        elif body.total is not None and body.total != pieces.size:
            if body.whole and body.total < pieces.size:
                raise errors.ShortBody(f"a body of {body.total} bytes came for {pieces.size}")
            raise await self._superseded(body.total)
        if body.validator is None or self._shop.validators_unreliable:
            return
        if pieces.validator is None:
            pieces.set_validator(body.validator)
        elif body.validator != pieces.validator:
            if suspect is None:
                raise _OtherValidator(body.validator)
            if suspect == body.validator:
                raise await self._superseded(pieces.size, body.validator)
            log.info("this server's validators differ from answer to answer; they are ignored")
            self._shop.validators_unreliable = True

    async def _superseded(self, size: int | None = None, validator: bytes | None = None) -> errors.Superseded:
        error = errors.Superseded("the server has another version of this file", size)
        await self._pieces.supersede(error, validator)
        return error

    async def _take_range(self, fill: BlockFetch, body: ContentBody) -> None:
        stop = min(fill.upto, body.end) if body.end is not None else fill.upto
        if stop <= fill.at:
            return  # past the end of a file that is shorter than thought; `_check` has learned its size
        async for chunk in body.chunks:
            if fill.at + len(chunk) > stop:
                raise errors.UnexpectedAnswer("more bytes came than the answer had announced")
            at, fill.at = fill.at, fill.at + len(chunk)
            await self._take(at, chunk, ahead=fill.ahead)
        if fill.at < stop:
            raise errors.ConnectionLost(f"an answer ended {stop - fill.at} bytes early")

    async def _take(self, at: int, chunk: bytes, *, ahead: bool) -> None:
        # The readers first, the disk then.
        for index, block in self._pieces.take(at, chunk, ahead=ahead):
            await self._pieces.keep(index, block)

    # --- the spool: a server that ignores ranges -----------------------------------------------------------

    async def _spool(self, fill: BlockFetch, body: ContentBody) -> None:
        """Read a whole body from its start; beyond what `fill` wants, as far as readers ask."""
        pieces = self._pieces
        size = pieces.size
        self._spool_at, self._spool_wish, self._spool_to = 0, fill.end, 0 if fill.ahead else fill.end
        self._shop.spools += 1
        tally = self._shop.tally
        stream = Stream(self._artifact, size, size is None or self._shop.fits(size))
        tally.streams.append(stream)
        if not stream.fits:
            tally.streamed += 1
            log.info("a body of %d bytes fits neither the cache nor memory: a step back starts it again", size)
        came = 0
        last = b""
        try:
            with trio.CancelScope() as self._spool_scope:
                async for chunk in body.chunks:
                    came = stream.came_to = came + len(chunk)
                    if size is not None and came > size:
                        raise await self._superseded()
                    if came == size and body.total is None:
                        last = chunk  # counts once it is seen to be the last: a longer body is another version
                        continue
                    await self._advance(fill, came - len(chunk), chunk)
                    if not await self._spool_may_go_on(came):
                        return
                await self._advance(fill, came - len(last), last)
                if size is None:
                    pieces.learn_size(came)
                    await pieces.keep_all()
                elif came < size:
                    raise errors.ShortBody(f"the body ended after {came} of {size} bytes")
        finally:
            self._spool_at = None
            self._shop.spools -= 1
            tally.streams.remove(stream)
            pieces.notify()

    async def _advance(self, fill: BlockFetch, at: int, chunk: bytes) -> None:
        """Take the next bytes of the spool, those of place `at`."""
        self._spool_at = at + len(chunk)
        fill.at = max(fill.at, min(self._spool_at, fill.end))
        await self._take(at, chunk, ahead=True)
        if fill.at == fill.end:
            fill.finish(fill)

    async def _spool_may_go_on(self, at: int) -> bool:
        """Wait until what comes next is asked for, or may run ahead; False if that does not happen for a while."""
        idle_s = 0.0
        while at > self._spool_to and not self._may_run_ahead(at):
            # Its readers may themselves be waiting behind those who wait for this connection: in the kernel, which
            # lets only so many reads of a mount be under way.
            if idle_s >= (_SPOOL_IDLE_CROWDED_S if self._shop.service.crowded else _SPOOL_IDLE_S):
                return False
            with trio.move_on_after(_SPOOL_LOOK_S):
                await self._spool_asked.wait()
                idle_s = 0.0
                continue
            idle_s += _SPOOL_LOOK_S
        return True

    def _may_run_ahead(self, at: int) -> bool:
        """Whether a spool that has come to `at` may go on though nobody waits for what comes next."""
        shop, size = self._shop, self._pieces.size
        # As far again as was read: a glance stays one, as far as it can.
        if at <= max(self._spool_wish, self._spool_to + min(self._spool_to, _SPOOL_AHEAD_BYTES)):
            return shop.pool.readahead_capacity > 0
        # To its end, where its place is wanted.
        return shop.service.crowded and size is not None and shop.has_room_for(size, size - at)

    def asked_for(self, end: int) -> None:
        """A reader waits for what comes before byte `end`."""
        if end > self._spool_to:
            self._spool_to = end
            self._wake_spool()

    def _wake_spool(self) -> None:
        asked, self._spool_asked = self._spool_asked, trio.Event()
        asked.set()

    async def _follow(self, fill: BlockFetch, spool_at: int) -> None:
        """Wait for the spool's next step towards a fill's end, or for its end; stop it if it is past the fill."""
        pieces = self._pieces
        if fill.at < spool_at:
            fill.at = pieces.contiguous_end(fill.at, fill.end)
            if fill.at == fill.end:
                return
        if fill.at < spool_at:
            # A step back behind a body that nothing kept: it starts again.
            self._shop.tally.restarted += 1
            self._spool_scope.cancel()
        elif not fill.ahead:
            self.asked_for(fill.end)
        elif fill.end > self._spool_wish:
            self._spool_wish = fill.end
            self._wake_spool()
        ahead_of_it = fill.at >= spool_at
        await pieces.changed.wait()
        # At its end only what it left tells how far it came.
        reached = pieces.contiguous_end(fill.at, fill.end)
        if ahead_of_it and self._spool_at is not None:
            # It went by everything in between, it or another one that began at the start.
            reached = max(reached, min(self._spool_at, fill.end))
        fill.at = reached
