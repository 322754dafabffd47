"""artifactfs.fuse.artifact_handles: an open file that can no longer be read, and a new opening (semantics.md 3.6, 2.4).

The kernel has one page cache for each inode, so both must not have the same one.
"""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs.content.cache_places import CachePart
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from tests.content_harness import BLOCK, Bench, Server, bench, noise
from tests.fakes import FakeService, finished_run
from tests.walking import mounted

CONTEXT: Any = SimpleNamespace(pid=0)
SIZE = 20 * BLOCK
PART = CachePart("site", "1/sub")


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[tuple[Operations, Bench]]:
    service = FakeService(runs={1: finished_run(1)})
    service.add_tree(1, {"sub/f": SIZE, "g": SIZE})
    async with trio.open_nursery() as nursery, bench(server) as made:
        tree = mounted(service, nursery)
        yield Operations(tree, made.files, Ownership(0, 0), deadline_s=30.0, on_ready=lambda: None), made
        nursery.cancel_scope.cancel()


async def number_of(operations: Operations, path: str) -> int:
    number: int = pyfuse3.ROOT_INODE
    for name in path.split("/"):
        number = (await operations.lookup(number, name.encode(), CONTEXT)).st_ino
    return number


async def drop(operations: Operations, made: Bench) -> int:
    """Drop PART; returns the number of open files that are superseded."""
    made.files.drop(PART.covers)
    await made.keeper.delete(PART.covers)
    return operations.on_dropped(operations.inodes.files(lambda directory: directory.path == "sub"))


async def fails_with(operation: Any) -> int:
    with pytest.raises(FUSEError) as failed:
        await operation
    number: int = failed.value.errno
    return number


@pytest.mark.parametrize("validator", [None, b"A" * 16])
async def test_a_dropped_file(validator: bytes | None, autojump_clock: MockClock) -> None:
    """3.6: it keeps its inode, without the kernel's pages, if its validator can prove it; else it is superseded."""
    async with serving(Server(noise(SIZE), validator=lambda: validator)) as (operations, made):
        number, beside = await number_of(operations, "runs/1/sub/f"), await number_of(operations, "runs/1/g")
        held, other = await operations.open(number, 0, CONTEXT), await operations.open(beside, 0, CONTEXT)
        for file in (held, other):
            assert file.keep_cache
            await operations.read(file.fh, 0, 10)
        assert await drop(operations, made) == (validator is None)
        assert await drop(operations, made) == 0
        if validator is None:
            assert await fails_with(operations.open(number, 0, CONTEXT)) == errno.ESTALE
            assert await fails_with(operations.read(held.fh, 0, 10)) == errno.ESTALE
        again = await operations.open(new := await number_of(operations, "runs/1/sub/f"), 0, CONTEXT)
        assert (new == number, again.keep_cache) == ((True, False) if validator else (False, True))
        assert (await operations.open(beside, 0, CONTEXT)).keep_cache
        for handle in list(operations._open_files):
            await operations.release(handle)


async def test_a_version_that_ended_unread(autojump_clock: MockClock) -> None:
    """2.4: what a fetch ahead of a reader saw supersedes the inode before it is opened again."""
    version = [b"A" * 16]
    async with serving(Server(noise(SIZE), validator=lambda: version[0])) as (operations, _made):
        number = await number_of(operations, "runs/1/sub/f")
        held = await operations.open(number, 0, CONTEXT)
        await operations.read(held.fh, 0, 10)
        version[0] = b"B" * 16
        handle = operations._open_files[held.fh].opened
        handle._shared.current.start_readahead(4 * BLOCK, 8 * BLOCK)
        await trio.sleep(1)
        assert handle.dead
        assert await fails_with(operations.open(number, 0, CONTEXT)) == errno.ESTALE
        assert await number_of(operations, "runs/1/sub/f") != number
        await operations.release(held.fh)


async def test_an_end_that_no_read_saw(autojump_clock: MockClock) -> None:
    """4.1: bytes of an answer that turns out to be too long, after they were read, are no other opening's pages."""
    server = Server(noise(SIZE), extra=b"!", chunk=64, pause_s=0.1)
    async with serving(server) as (operations, _made):
        number = await number_of(operations, "runs/1/sub/f")
        held = await operations.open(number, 0, CONTEXT)
        await operations.read(held.fh, 0, 10)
        await trio.sleep(10)
        await operations.release(held.fh)
        server.extra = b""
        assert await fails_with(operations.open(number, 0, CONTEXT)) == errno.ESTALE
        again = await operations.open(new := await number_of(operations, "runs/1/sub/f"), 0, CONTEXT)
        assert new != number
        await operations.release(again.fh)
