"""What a program that follows a file is shown: growth once it is proven, and what that costs (2.4, 3.5)."""

import errno
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.open_files import OpenFileTable
from artifactfs.domain import Run
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.tree.tree import Tree
from tests import content_harness
from tests.content_harness import BLOCK, noise
from tests.fakes import NOW_NS, FakeService, directory, run
from tests.unit.test_operations import CONTEXT, DEADLINE_S
from tests.walking import count

WHOLE = noise(100 * BLOCK)
OTHER = noise(100 * BLOCK, seed=5)
LIVE_TTL_S = 5.0


@dataclass
class Live:
    """A running run with one log, its mount, and a program that has the log open."""

    service: FakeService
    contents: content_harness.Server
    tree: Tree
    files: OpenFileTable
    operations: Operations
    parent: int
    dropped: list[tuple[int, bytes]] = field(default_factory=list)
    lists_sizes: bool = True

    def become(self, data: bytes, listed: int | None = None) -> None:
        """Let the log have these contents, and the listing show their size, or `listed`."""
        self.contents.data = data
        if self.lists_sizes:
            self.service.listings[1, ""] = directory({"log": len(data) if listed is None else listed})

    async def size(self, inode: int) -> int:
        """Return the size that `stat` shows, polled until the change was seen."""
        for _ in range(10):
            shown = await self.operations.getattr(inode, CONTEXT)
            await trio.sleep(1)
        size: int = shown.st_size
        return size

    async def read_all(self, handle: int, inode: int) -> bytes:
        size = (await self.operations.getattr(inode, CONTEXT)).st_size
        return bytes(await self.operations.read(handle, 0, size))


@asynccontextmanager
async def live_on(
    service: FakeService, contents: content_harness.Server, prefetch: str = "off", *, lists_sizes: bool = True
) -> AsyncIterator[Live]:
    async with trio.open_nursery() as nursery, content_harness.bench(contents) as bench:
        tree = Tree(
            service,
            site="t",
            nursery=nursery,
            clock=trio.current_time,
            wall_clock_ns=wall_clock_ns,
            prefetch=prefetch,
        )
        handlers = Operations(tree, bench.files, Ownership(1, 1), deadline_s=DEADLINE_S, on_ready=lambda: None)
        tree.watch_followed(handlers.on_listed)
        tree.watch_contents(handlers.asks_contents)
        root: Any = pyfuse3.ROOT_INODE
        parent = (await handlers.lookup((await handlers.lookup(root, b"runs", CONTEXT)).st_ino, b"1", CONTEXT)).st_ino
        made = Live(service, contents, tree, bench.files, handlers, parent, lists_sizes=lists_sizes)
        handlers.on_superseded(lambda number, name: made.dropped.append((number, name)))
        yield made
        nursery.cancel_scope.cancel()


def wall_clock_ns() -> int:
    return NOW_NS + int(trio.current_time() * 1e9)


def live(size: int, its_run: Run = run(1), *, lists_sizes: bool = True) -> AbstractAsyncContextManager[Live]:  # noqa: B008
    """Return a run with a log of so many bytes."""
    service = FakeService(runs={1: its_run}, listings={(1, ""): directory({"log": size if lists_sizes else None})})
    return live_on(service, content_harness.Server(WHOLE[:size]), lists_sizes=lists_sizes)


async def test_growth_is_shown(autojump_clock: MockClock) -> None:
    """3.5: within `live_ttl` and two polls `stat` shows the new size, an open file reads on, and its inode stays."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        assert await made.read_all(handle, inode) == WHOLE[:700]
        for size in (701, 5 * BLOCK):
            made.become(WHOLE[:size])
            assert await made.size(inode) == size
            assert await made.read_all(handle, inode) == WHOLE[:size]
            assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino == inode
        await made.operations.release(handle)
        assert made.dropped == []


async def test_a_program_that_opens_the_file_for_each_look(autojump_clock: MockClock) -> None:
    """3.5: a program that has the file open only while the kernel asks sees growth, too, as TensorBoard reads."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        for size in (700, 800, 3 * BLOCK):
            made.become(WHOLE[:size])
            shown = 0
            for _ in range(20):
                handle = (await made.operations.open(inode, 0, CONTEXT)).fh
                shown = (await made.operations.getattr(inode, CONTEXT)).st_size
                assert bytes(await made.operations.read(handle, 0, shown)) == WHOLE[:shown]
                await made.operations.release(handle)
                await trio.sleep(0.5)
            assert shown == size


async def test_a_replacement_is_not_shown(autojump_clock: MockClock) -> None:
    """2.4: an open file that was replaced by a longer one shows its old size and bytes; its name has another inode."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        assert await made.read_all(handle, inode) == WHOLE[:700]
        made.become(OTHER[:900])
        assert await made.size(inode) == 700
        assert made.dropped == [(made.parent, b"log")]
        with pytest.raises(FUSEError):
            await made.operations.read(handle, 0, 100)
        await made.operations.release(handle)
        other = await made.operations.lookup(made.parent, b"log", CONTEXT)
        assert (other.st_ino != inode, other.st_size) == (True, 900)
        handle = (await made.operations.open(other.st_ino, 0, CONTEXT)).fh
        assert bytes(await made.operations.read(handle, 0, 900)) == OTHER[:900]
        await made.operations.release(handle)


async def test_requests_are_bounded(autojump_clock: MockClock) -> None:
    """3.5, 7: however many polls, a directory is listed once in `live_ttl`, and contents only where it grew."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        await made.read_all(handle, inode)
        made.service.asked()
        requests = len(made.contents.asked)
        for _ in range(600):
            await made.operations.getattr(inode, CONTEXT)
            await trio.sleep(0.1)
        assert 8 <= count(made.service.asked(), "listing") <= 60 / LIVE_TTL_S
        assert len(made.contents.asked) == requests
        await made.operations.release(handle)


async def test_a_proof_that_fails_is_tried_again(autojump_clock: MockClock) -> None:
    """3.2, 3.5: while the contents cannot be had, an open file stays as it was; then it grows."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        await made.read_all(handle, inode)
        made.become(WHOLE[:800])
        made.contents.failures = [errors.ServerFailed("no", 503)] * 3
        assert await made.size(inode) in (700, 800)
        assert await made.size(inode) == 800
        assert await made.read_all(handle, inode) == WHOLE[:800]
        await made.operations.release(handle)


async def test_a_listing_that_runs_ahead(autojump_clock: MockClock) -> None:
    """3.5: an open file shows what the contents have, and more of it when that comes."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        await made.read_all(handle, inode)
        made.become(WHOLE[:800], listed=1000)
        assert await made.size(inode) == 800
        made.become(WHOLE[:1000])
        assert await made.size(inode) == 1000
        assert await made.read_all(handle, inode) == WHOLE[:1000]
        await made.operations.release(handle)


async def test_an_open_that_a_lookup_overtakes(autojump_clock: MockClock) -> None:
    """4.1: while an open waits for the contents, the kernel is shown a size that they do not have: it asks again."""
    async with live(700) as made, trio.open_nursery() as nursery:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        await trio.sleep(61)
        made.contents.pause_s = 1.0
        failed: list[int] = []

        async def open_it() -> None:
            try:
                await made.operations.open(inode, 0, CONTEXT)
            except FUSEError as error:
                failed.append(error.errno)

        nursery.start_soon(open_it)
        await trio.sleep(0.5)
        made.become(WHOLE[:700], listed=1000)
        assert (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_size == 1000
        await trio.sleep(1)
        assert failed == [errno.ESTALE]
        found = await made.operations.lookup(made.parent, b"log", CONTEXT)
        assert (found.st_ino, found.st_size) == (inode, 700)


async def test_a_read_that_growth_overtakes(autojump_clock: MockClock) -> None:
    """4.1: a read that waits while the kernel is shown a larger size gives its bytes, too: none is left for zeros."""
    size, larger = 5 * BLOCK + 100, 5 * BLOCK + 300
    async with live(size) as made, trio.open_nursery() as nursery:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        made.contents.pause_s = 1.0
        found: list[bytes] = []

        async def read_the_end() -> None:
            found.append(bytes(await made.operations.read(handle, 5 * BLOCK, BLOCK)))

        nursery.start_soon(read_the_end)
        await trio.sleep(0.5)
        asked = len(made.contents.asked)
        assert asked > 0
        assert found == []
        shown = made.operations.inodes.get(inode)
        shown.entry = msgspec.structs.replace(shown.entry, size_bytes=larger)
        made.contents.data = WHOLE[:larger]
        await trio.sleep(5)
        assert found == [WHOLE[5 * BLOCK : larger]]
        await made.operations.release(handle)


async def test_pages_are_dropped_before_growth_is_shown(autojump_clock: MockClock) -> None:
    """4.1: the last page ends in zeros, so the kernel drops it before it hears of a larger size, however that came."""
    async with live(700) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
        dropped: list[int] = []

        async def drop(inodes: Iterable[int]) -> bool:
            assert list(inodes) == [inode]
            await trio.sleep(0.5)
            dropped.append((await made.operations.getattr(inode, CONTEXT)).st_size)
            return True

        async def drop_attributes(inodes: Iterable[int]) -> None:
            assert list(inodes) == [inode]

        made.operations.on_growth(drop, drop_attributes)
        # What a listing shows, then what an answer tells before a listing does.
        made.become(WHOLE[:800])
        assert await made.size(inode) == 800
        made.become(WHOLE[: 5 * BLOCK], listed=900)
        assert await made.size(inode) == 5 * BLOCK
        assert dropped == [700, 800]
        assert await made.read_all(handle, inode) == WHOLE[: 5 * BLOCK]
        await made.operations.release(handle)
