"""Fetches missing blocks of one version from the service.

What is hard:

- The server may ignore ranges. Then the one answer is read from its start as a full body (full_body.py), and all other
  fetches follow it.
- An answer may be of another version. Then none of its bytes count (docs/semantics.md 4.1).
- An answer may break off. It is resumed where it broke, as long as that makes progress.
- A file may grow between any two answers. An answer that shows that counts once the growth is proven: by then, the next
  one would be of a still larger file. The first one is requested again, as it mostly does, and what follows is held.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from artifactfs import errors
from artifactfs.content.block_fetch import BlockFetch, LargerContent, OtherValidator, SmallerContent, UnprovenContent
from artifactfs.content.context import ContentContext
from artifactfs.content.full_body import FullBody
from artifactfs.content.growth import prove
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef, ContentBody

log = logging.getLogger(__name__)

_TOO_MUCH = "more bytes came than the answer had announced"
# Answers in a row that broke off without anything new.
_MAX_FRUITLESS = 4
# Blocks of an answer that are held until a proof shows that they count: memory that nothing else bounds. Arbitrary.
_HELD_BLOCKS = 4
# How long a request waits while another file's request finds out whether this server grants ranges: that request may
# stall. Arbitrary.
_PROBE_WAIT_S = 1.0


class Fetcher:
    """All fetches of one version. `grow(size)` lets it grow to a larger file, or raises Superseded.

    `shrink(smaller)` lets it be the smaller file that an answer was of, or raises Superseded, ShortBody.
    """

    def __init__(
        self,
        context: ContentContext,
        artifact: ArtifactRef,
        blocks: VersionBlocks,
        grow: Callable[[int | None], Awaitable[None]],
        shrink: Callable[[SmallerContent], Awaitable[None]],
    ) -> None:
        self._context = context
        self.artifact = artifact
        self._blocks = blocks
        self._grow = grow
        self._shrink = shrink
        # Held by a request while its answer may be the whole file.
        self._turn = trio.Lock()
        # Held while validators are compared with contents.
        self._judging = trio.Lock()
        self._full_body: FullBody | None = None
        self._restarts = 0

    @property
    def being_passed(self) -> set[int]:
        """The block that a full body has come to. Without its first bytes the rest of it would be read for nothing."""
        body = self._full_body
        return set() if body is None else {body.at // self._context.tuning.block_bytes}

    def want(self, end: int) -> None:
        """A read waits for the bytes before `end`."""
        if self._full_body is not None:
            self._full_body.want(end)

    def came_near(self, offset: int) -> int:
        """Return how far a full body has come on its way to an offset; 0 for none, or if it is past that."""
        body = self._full_body
        return body.at if body is not None and body.at <= offset else 0

    async def run(self, fetch: BlockFetch) -> None:
        """Fetch the bytes from `at` to `upto`. Raises Superseded, ServiceError."""
        blocks = self._blocks
        # `outgrown`: answers in a row whose file had grown when the next one came.
        fruitless = outgrown = 0
        suspect: bytes | None = None
        while not fetch.done and fetch.at < fetch.upto and (blocks.size is None or fetch.at < blocks.size):
            if self._full_body is not None:
                await self._follow(fetch, self._full_body)
                continue
            began_at, size, growths, restarts = fetch.at, blocks.size, blocks.growths, self._restarts
            error: errors.ServiceError | None = None
            answered = False
            try:
                async with self._answer(fetch, self._end_of(fetch, outgrown)) as body:
                    if body is None:
                        continue
                    answered = True
                    await self._receive(fetch, body, suspect, size, outgrown)
            except UnprovenContent as unproven:
                if isinstance(unproven, OtherValidator) and suspect is None:
                    suspect = unproven.validator
                    continue
                await self._prove(unproven, suspect, growths)
                outgrown += blocks.growths != growths
                if not await self._take_held(fetch, unproven):
                    fruitless += blocks.growths == growths
                    if fruitless >= _MAX_FRUITLESS:
                        raise await self._supersede_by(unproven, suspect) from unproven
                suspect = None
                continue
            except SmallerContent as smaller:
                await self._shrink(smaller)
                continue
            except (errors.ConnectionLost, errors.TimedOut) as caught:
                if not answered:
                    raise  # the client has retried it already
                error = caught
            suspect, outgrown = None, 0
            # A better answer may follow one without anything new, but not for ever.
            # That another reader stepped back, or that its answer showed growth, says nothing of this one. The deadline
            # of a read bounds that.
            has_excuse = self._restarts != restarts or blocks.growths != growths
            fruitless = 0 if fetch.at > began_at or has_excuse else fruitless + 1
            if fetch.done or (error is None and not fruitless):
                continue
            if fruitless >= _MAX_FRUITLESS:
                raise error or errors.ConnectionLost("answers came without the bytes that were asked for")
            log.debug("content broke off: %s", error)
            if fruitless:
                await trio.sleep(self._context.backoff_s(fruitless))

    @asynccontextmanager
    async def _answer(self, fetch: BlockFetch, end: int) -> AsyncIterator[ContentBody | None]:
        """Request the bytes of a fetch up to `end`; None if a full body has begun meanwhile.

        A server that ignores ranges would answer several requests with the whole file each. So where that may be, one
        request of a file is in flight; and, for a moment, one of the mount while nothing is known of the server.
        """
        context, size = self._context, self._blocks.size
        async with AsyncExitStack() as turn:
            if context.service.ranges is not True:
                await turn.enter_async_context(self._turn)
            if context.service.ranges is None and not (fetch.at == 0 and size is not None and fetch.upto >= size):
                with trio.move_on_after(_PROBE_WAIT_S):
                    await turn.enter_async_context(context.probe)
            if self._full_body is not None:
                yield None
                return
            async with context.service.get(self.artifact, fetch.at, end, size=size) as body:
                # Atomic from here until a full body has begun: releasing the locks does not yield to the loop.
                await turn.aclose()
                yield body

    async def _receive(
        self, fetch: BlockFetch, body: ContentBody, suspect: bytes | None, size: int | None, outgrown: int
    ) -> None:
        try:
            await self._check(body, suspect, size, outgrown)
        except UnprovenContent as unproven:
            if outgrown and not body.whole and (isinstance(unproven, LargerContent) or suspect is not None):
                unproven.held = await self._hold(fetch, body, self._end_of(fetch, outgrown))
                unproven.proofs = self._blocks.proofs
            raise
        if not body.whole:
            await self._take_range(fetch, body)
        elif self._full_body is None:  # otherwise the server began to ignore ranges, and another fetch was first
            self._full_body = FullBody(self._context, self.artifact, self._blocks, body, fetch)
            try:
                await self._full_body.run()
            except SmallerContent as smaller:
                # Before the fetches that follow the body look for another.
                await self._shrink(smaller)
            finally:
                self._full_body = None
                self._blocks.changed.notify()

    async def _check(self, body: ContentBody, suspect: bytes | None, size: int | None, outgrown: int) -> None:
        """Compare an answer with this version, which had `size` when the request was sent.

        Raises Superseded; SmallerContent, LargerContent and OtherValidator to ask again.
        """
        blocks = self._blocks
        if size is not None and size != blocks.size and (body.total is None or body.total < (blocks.size or 0)):
            raise errors.ConnectionLost("the file grew while it was requested")
        # A whole body that follows a proof of growth. Where it comes to the end of what is known, the next one would be
        # of a still larger file.
        is_compared = body.whole and outgrown > 0 and not blocks.must_match
        if blocks.size is None:
            if body.total is not None:
                self._learn_size(body.total, body)
        elif body.total is not None and body.total != blocks.size:
            if body.total < blocks.size:
                raise SmallerContent(body.total, whole=body.whole, is_first=blocks.is_untouched)
            is_known = blocks.must_match or blocks.known.last is not None
            if not outgrown or (is_known and not is_compared):
                raise LargerContent(body.total)
            # It is compared, or no reader has anything that it could contradict.
            blocks.grow(body.total, None, compared=is_known)
        elif body.total is not None:
            blocks.is_listed_only = False
        blocks.lacks_length = body.whole and body.total is None
        if body.validator is None or self._context.validators_unreliable:
            if blocks.must_match:
                raise await blocks.supersede(blocks.size)
            return
        if blocks.validator is None:
            blocks.set_validator(body.validator)
        elif body.validator != blocks.validator:
            if is_compared:
                blocks.go_on(body.validator)
                return
            if suspect == body.validator:
                if body.total is None and not blocks.must_match:
                    raise LargerContent(None)  # it may only have grown, which the comparison shows
                raise await blocks.supersede(blocks.size, body.validator)
            raise OtherValidator(body.validator)

    def _learn_size(self, total: int, body: ContentBody) -> None:
        """Learn the size by an answer, unless that may be of a file which changed since bytes of this version came.

        An answer for bytes behind the end has no validator.
        """
        blocks, known_bytes = self._blocks, self._blocks.known_bytes
        if total < known_bytes:
            raise SmallerContent(total, whole=body.whole, is_first=False)
        names_another = blocks.validator not in (None, body.validator) and not self._context.validators_unreliable
        if known_bytes and names_another:
            raise LargerContent(total)
        blocks.learn_size(total)

    async def _prove(self, unproven: UnprovenContent, suspect: bytes | None, growths: int) -> None:
        """Find out whether an answer is of this version. Raises Superseded, ServiceError.

        `growths`: of the version when the answer was requested.
        """
        if isinstance(unproven, LargerContent):
            size = self._blocks.size
            await self._grow(unproven.total)
            if suspect is not None and (self._blocks.growths, self._blocks.size) == (growths, size):
                # Two answers agree that it is another version, and it is no larger one.
                raise await self._supersede_by(unproven, suspect)
        else:
            await self._judge_validators()

    async def _supersede_by(self, unproven: UnprovenContent, suspect: bytes | None) -> errors.Superseded:
        if isinstance(unproven, OtherValidator):
            return await self._blocks.supersede(self._blocks.size, unproven.validator)
        total = unproven.total if isinstance(unproven, LargerContent) else None
        return await self._blocks.supersede(total, suspect)

    def _end_of(self, fetch: BlockFetch, outgrown: int) -> int:
        """Return up to where the bytes of a fetch are requested: less where they may have to be held."""
        if not outgrown:
            return fetch.upto
        return min(fetch.upto, fetch.at + _HELD_BLOCKS * self._context.tuning.block_bytes)

    async def _hold(self, fetch: BlockFetch, body: ContentBody, end: int) -> bytes:
        """Return the bytes of an answer that count only once a proof succeeds that begins now."""
        stop, held = min(end, body.end) if body.end is not None else end, bytearray()
        async for chunk in body.chunks:
            held += chunk
            if fetch.at + len(held) > stop:
                raise await self._blocks.reject(_TOO_MUCH)
            self._blocks.came_to_compare(len(held))
        if fetch.at + len(held) < stop:
            raise errors.ConnectionLost(f"an answer ended {stop - fetch.at - len(held)} bytes early")
        return bytes(held)

    async def _take_held(self, fetch: BlockFetch, unproven: UnprovenContent) -> bool:
        """Take what was held of an answer, if that counts by now; returns whether it did."""
        held, blocks = unproven.held, self._blocks
        if not held or blocks.proven <= unproven.proofs:
            return False
        at, fetch.at = fetch.at, fetch.at + len(held)
        await blocks.receive(at, held, ahead=fetch.ahead)
        return True

    async def _judge_validators(self) -> None:
        """Find out what validators mean that differ from answer to answer: nothing where known bytes are the same.

        Raises Superseded for other bytes, ServiceError.
        """
        context, blocks = self._context, self._blocks
        async with self._judging:
            if context.validators_unreliable:
                return
            growths, known_bytes = blocks.growths, blocks.known_bytes
            found = await prove(context, self.artifact, blocks, None, moved=True)
            if blocks.growths != growths:
                return  # by another proof: this one was of the smaller file
            if not found.compared:
                blocks.validator = None  # no reader has anything that the next answer could contradict
            elif blocks.size is None:
                blocks.go_on(found.validator)  # it may have grown: nothing tells
            elif found.size_bytes > known_bytes:
                await self._grow(found.size_bytes)
            elif found.validator not in (None, blocks.validator):
                self._ignore_validators()

    def _ignore_validators(self) -> None:
        log.info("this server's validators differ from answer to answer; they are ignored")
        self._context.validators_unreliable = True

    async def _take_range(self, fetch: BlockFetch, body: ContentBody) -> None:
        stop = min(fetch.upto, body.end) if body.end is not None else fetch.upto
        if stop <= fetch.at:
            return  # past the end of the file; `_check` has learned its size
        blocks = self._blocks
        if blocks.size is not None and stop > blocks.size:
            # Requested before another answer told the size, of a file that has grown since.
            fetch.upto = blocks.size
            raise errors.ConnectionLost("the file grew while it was requested")
        # This answer may tell no size, and another one meanwhile.
        shape = blocks.growths, blocks.size
        body.receive_into(lambda: blocks.room(fetch.at, stop))
        async for chunk in body.chunks:
            if (blocks.growths, blocks.size) != shape:
                raise errors.ConnectionLost("the file's size became another while its answer came")
            if fetch.at + len(chunk) > stop:
                # What came before them may be as wrong, and a program may have been given it: it must fail.
                raise await blocks.reject(_TOO_MUCH)
            at, fetch.at = fetch.at, fetch.at + len(chunk)
            await blocks.receive(at, chunk, ahead=fetch.ahead)
        if fetch.at < stop:
            raise errors.ConnectionLost(f"an answer ended {stop - fetch.at} bytes early")

    async def _follow(self, fetch: BlockFetch, full_body: FullBody) -> None:
        """Wait for the next step of a full body; restart it if it has passed bytes of this fetch that are gone."""
        blocks = self._blocks
        if fetch.at < full_body.at:
            fetch.at = blocks.contiguous_end(fetch.at, fetch.end)
            if fetch.at == fetch.end:
                return
        is_ahead_of_body = fetch.at >= full_body.at
        if is_ahead_of_body:
            full_body.want(fetch.end, ahead=fetch.ahead)
        elif fetch.ahead:
            # No read waits for it, so it is not worth the body from its start.
            fetch.finish(fetch)
            return
        else:
            self._restarts += 1
            full_body.restart()
        await blocks.changed.wait()
        # After its end only the blocks tell how far it came.
        reached = blocks.contiguous_end(fetch.at, fetch.end)
        if is_ahead_of_body and self._full_body is not None:
            # This body, or another one that began at byte 0, has passed every byte up to here.
            reached = max(reached, min(self._full_body.at, fetch.end))
        fetch.at = reached
