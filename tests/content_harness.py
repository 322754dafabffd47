"""What the tests of the reader share: a server with scripted answers, and the parts of a mount around it in small.

Everything is scaled down (a block is 1 KiB), so that a few KiB have many blocks. Threads are replaced by plain calls:
under a clock that jumps, a thread at work would look like an idle program.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import trio
import trio.testing

from artifactfs import errors
from artifactfs.content.block_buffers import BlockBuffers
from artifactfs.content.block_store import BlockStore
from artifactfs.content.content_tuning import ContentTuning
from artifactfs.content.context import ContentContext
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.open_files import OpenFileTable
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ArtifactRef, Chunk, ContentBody, ContentVersion, Room
from artifactfs.util import threads

T = TypeVar("T")

BLOCK = 1 << 10
GLANCE = BLOCK // 4
DEADLINE_S = 30.0
LISTING_TTL_S = 60.0
# 2026-05-16T09:00:00Z
NOW_S = 1_778_922_000.0


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes of which no two blocks, and no two seeds, are alike at any place."""
    return (bytes((place * 31 + seed * 101) % 251 for place in range(251)) * (size // 251 + 1))[:size]


# Blocks, windows and queues are 1/512 of what they are in a mount.
TUNING = ContentTuning(
    block_bytes=BLOCK,
    head_bytes=GLANCE,
    window_bytes=64 * BLOCK,
    step_bytes=16 * BLOCK,
    whole_bytes=2 * BLOCK,
    first_window_bytes=4 * BLOCK,
    steady_bytes=10 * BLOCK,
    tentative_bytes=BLOCK // 2,
    slack_bytes=BLOCK // 2,
    min_progress_bytes=32,
    full_body_ahead_bytes=8 * BLOCK,
    disk_queue_bytes=24 * BLOCK,
    batch_wait_s=0.0,
)


async def inline(
    call: Callable[..., T],
    *args: object,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Call it, in place of a thread."""
    await trio.lowlevel.checkpoint()
    return call(*args)


class Broken(errors.ConnectionLost):
    """A body that broke off, as the script said."""


@dataclass
class Server:
    """A ContentService: `data` is the file, the rest how it is answered.

    `granted`: ranges are; `told`: the total is; `framed`: see ContentBody; `placed`: chunks are received into memory.
    `validator`: of the next answer. `cuts`:
    for each answer, after how many bytes it breaks off (None: it does not); `ends`: the same, but as if that were all.
    `failures`: raised in place of an answer. `pause_s`: before each chunk. `extra`: bytes too many. `stall`: no chunk
    ever comes. `is_offline`: every request fails before it is sent.
    """

    data: bytes
    granted: bool = True
    told: bool = True
    framed: bool = True
    placed: bool = True
    chunk: int = 700
    pause_s: float = 0.0
    validator: Callable[[], bytes | None] = lambda: None
    cuts: list[int | None] = field(default_factory=list)
    ends: list[int | None] = field(default_factory=list)
    failures: list[Exception | None] = field(default_factory=list)
    extra: bytes = b""
    stall: bool = False
    is_saturated: bool = False
    is_offline: bool = False
    room: bool = True
    before_answer: Callable[[int], None] = lambda _number: None
    ranges: bool | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)
    sent: int = 0
    open_bodies: int = 0

    def can_prefetch(self) -> bool:
        return self.room

    @asynccontextmanager
    async def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AsyncIterator[ContentBody]:
        assert end is not None
        await trio.lowlevel.checkpoint()
        if self.is_offline:
            raise errors.Offline("offline")
        self.before_answer(len(self.asked))
        self.asked.append((start, end))
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        data, total = self.data, len(self.data)
        if not self.granted:
            if self.ranges is None and not (start == 0 and size is not None and end >= size):
                self.ranges = False
            said = total + len(self.extra) if self.told else None
            body = ContentBody(0, said, said, True, self.validator(), self._chunks(data + self.extra), self.framed)
        elif start >= total:
            body = ContentBody(start, start, total, False, None, self._chunks(b""))
        else:
            self.ranges = True
            end = min(end, total)
            said = total if self.told else None
            rooms: list[Room] = []
            chunks = self._chunks(data[start:end] + self.extra, rooms)
            body = ContentBody(start, end, said, False, self.validator(), chunks)
            if self.placed:
                body.receive_into = rooms.append
        self.open_bodies += 1
        try:
            async with aclosing(cast("AsyncGenerator[Chunk, None]", body.chunks)):
                yield body
        finally:
            self.open_bodies -= 1

    async def _chunks(self, data: bytes, rooms: Sequence[Room] = ()) -> AsyncGenerator[Chunk, None]:
        cut = self.cuts.pop(0) if self.cuts else None
        ends = self.ends.pop(0) if self.ends else None
        if self.stall:
            await trio.sleep_forever()
        upto = min(len(data), *(at for at in (cut, ends) if at is not None), len(data))
        at = 0
        while at < upto:
            await trio.sleep(self.pause_s)
            placed: list[Chunk] = []
            piece = data[at : min(upto, at + self.chunk)]
            # The first piece comes with the answer's head.
            for place in rooms[0]() if at and rooms else ():
                count = min(len(piece), len(place))
                place[:count] = piece[:count]
                placed.append(place[:count])
                piece = piece[count:]
            at += len(piece) + sum(map(len, placed))
            for part in (*placed, piece):
                if part:
                    self.sent += len(part)
                    yield part
        if cut is not None and cut < len(data):
            raise Broken("the body broke off")


@dataclass
class Bench:
    """The contents of a mount in small, around one server."""

    shop: ContentContext
    keeper: DiskCache
    files: OpenFileTable
    nursery: trio.Nursery
    now_s: list[float]

    async def open(
        self, size: int | None, path: str = "p/artifacts/f.bin", run_stamp: bytes | None = None, *, stream: bool = True
    ) -> OpenFile:
        return await self.files.open(ContentVersion(ArtifactRef("10", path), size, run_stamp), stream=stream)

    async def read_whole(self, handle: OpenFile, step: int = 300) -> bytes:
        """Read a file as a sequential reader does, to the first empty read."""
        found = b""
        while piece := await handle.read(len(found), step):
            found += bytes(piece)
        return found

    async def settle(self) -> None:
        """Wait until nothing more happens, and see that nothing is left: tasks, places, bytes."""
        await trio.testing.wait_all_tasks_blocked()
        await self.keeper.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert not self.nursery.child_tasks
        assert self.shop.budget.used == 0
        assert self.shop.active_downloads == 0
        assert self.shop.active_streams == 0
        assert not self.shop.stats.streams
        assert not self.shop.probe.locked()
        assert len(self.files) == 0
        assert self.keeper.is_idle
        assert self.shop.pool.readers_ahead_of == 0
        assert self.shop.pool.unread_bytes == 0


@asynccontextmanager
async def bench(
    server: Server,
    *,
    directory: str | None = None,
    pool: int = 64 * BLOCK,
    budget: int = 32 * BLOCK,
    cache: int = 1 << 30,
    owner: str = "site\0account",
    now_s: Sequence[float] = (NOW_S,),
    tuning: ContentTuning = TUNING,
    run_in_thread: threads.RunInThread = inline,
) -> AsyncIterator[Bench]:
    """Yield the contents of a mount; nothing may be left at the end. `directory`: of the cache, None for none."""
    now = list(now_s)
    # Fewer of them than blocks in memory, so that each is used again soon.
    buffers = BlockBuffers(tuning.block_bytes, pool // 2)
    async with trio.open_nursery() as nursery:
        store = None
        if directory is not None:
            store = BlockStore(
                directory,
                max_bytes=cache,
                min_free_bytes=0,
                block_bytes=tuning.block_bytes,
                new_buffer=buffers.take,
            )
        kept = DiskCache(store, nursery, tuning, run_in_thread)
        shop = ContentContext(
            service=server,
            disk_cache=kept,
            pool=BlockPool(pool),
            budget=ReadaheadBudget(budget),
            nursery=nursery,
            wall_clock=lambda: now[0],
            deadline_s=DEADLINE_S,
            listing_ttl_s=LISTING_TTL_S,
            backoff_s=float,
            tuning=tuning,
            new_buffer=buffers.take,
        )
        made = Bench(shop, kept, OpenFileTable(shop, owner=owner), nursery, now)
        yield made
        await made.settle()
        assert server.open_bodies == 0
        shop.pool.clear()
        assert shop.pool.size_bytes == 0
        nursery.cancel_scope.cancel()
