"""Which file is shown where a listing and the contents disagree: the table of artifactfs.tree.size_changes."""

import errno
from dataclasses import dataclass

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs.domain import Children, DirectoryListing, ListedChild
from tests import content_harness
from tests.content_harness import BLOCK, noise
from tests.fakes import NOW_NS, FakeService, run
from tests.unit.test_following import LIVE_TTL_S, Live, live_on
from tests.unit.test_operations import CONTEXT

V1, V2 = noise(9 * BLOCK), noise(9 * BLOCK, seed=5)
T1, T2 = NOW_NS - 10**10, NOW_NS - 10**9
READ, UNREAD = True, False


@dataclass(frozen=True)
class Row:
    """A file of 3,000 bytes was read, or not; then listing and contents say something else.

    `same`, `shown`: whether the inode is the same, and its size, while the file is open.
    """

    read: bool
    listed: int | None
    time_ns: int
    contents: bytes
    same: bool
    shown: int


ROWS = {
    "nothing new": Row(READ, 3000, T1, V1[:3000], True, 3000),
    "no size": Row(READ, None, T1, V1[:3000], True, 3000),
    "grown": Row(READ, 5000, T2, V1[:5000], True, 5000),
    "grown, the contents lag": Row(READ, 5000, T2, V1[:3000], True, 3000),
    "grown, the contents lag in part": Row(READ, 5000, T2, V1[:4000], True, 4000),
    "grown, the listing lags": Row(READ, 4000, T2, V1[:5000], True, 5000),
    "replaced by more": Row(READ, 5000, T2, V2[:5000], False, 5000),
    "replaced by more, the listing lags": Row(READ, 5000, T2, V2[:6000], False, 6000),
    "cut, the listing shows growth still": Row(READ, 5000, T2, V1[:1000], False, 1000),
    "cut": Row(READ, 1000, T2, V1[:1000], False, 1000),
    "replaced by less": Row(READ, 1000, T2, V2[:1000], False, 1000),
    "replaced by less, the contents lag": Row(READ, 1000, T2, V1[:3000], True, 3000),
    "replaced by less, the contents lag and have grown": Row(READ, 1000, T2, V1[:4000], True, 4000),
    "replaced by less, which has grown, the listing lags": Row(READ, 1000, T2, V2[:3500], False, 3500),
    "replaced by less, contents of the same size": Row(READ, 1000, T2, V2[:3000], False, 3000),
    "less, of a file that was not read": Row(UNREAD, 1000, T2, V1[:3000], False, 1000),
    "more, of a file that was not read": Row(UNREAD, 5000, T2, V1[:5000], True, 5000),
    "another time": Row(READ, 3000, T2, V2[:3000], False, 3000),
}


def listing(size: int | None, time_ns: int) -> DirectoryListing:
    return DirectoryListing(Children({b"log": ListedChild(b"log", False, size, time_ns)}), "p/a")


async def poll(made: Live, inode: int) -> tuple[int, int]:
    """Look at a name until all is seen, as the kernel does; returns its inode and its size."""
    for _ in range(3 * int(LIVE_TTL_S)):
        await trio.sleep(1)
        await made.operations.getattr(inode, CONTEXT)
    found = await made.operations.lookup(made.parent, b"log", CONTEXT)
    return found.st_ino, found.st_size


async def read(made: Live, inode: int, size: int) -> tuple[int, bytes]:
    """Open and read a file, with one more look at the name where the kernel takes one; returns the inode as well."""
    try:
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
    except FUSEError as error:
        if error.errno != errno.ESTALE:
            raise
        found = await made.operations.lookup(made.parent, b"log", CONTEXT)
        inode, size = found.st_ino, found.st_size
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh
    size = (await made.operations.getattr(inode, CONTEXT)).st_size
    data = bytes(await made.operations.read(handle, 0, size))
    await made.operations.release(handle)
    return inode, data


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_what_is_shown(row: Row, is_open: bool, autojump_clock: MockClock) -> None:
    """2.4, 3.5, 4.1: each line of the table: number and size; and a listing that agrees in the end changes nothing."""
    service = FakeService(runs={1: run(1)}, listings={(1, ""): listing(3000, T1)})
    contents = content_harness.Server(V1[:3000])
    async with live_on(service, contents) as made:
        inode = (await made.operations.lookup(made.parent, b"log", CONTEXT)).st_ino
        if row.read:
            assert await read(made, inode, 3000) == (inode, V1[:3000])
        handle = (await made.operations.open(inode, 0, CONTEXT)).fh if row.read and is_open else None
        service.listings[1, ""], contents.data = listing(row.listed, row.time_ns), row.contents
        number, size = await poll(made, inode)
        if handle is not None or (row.listed or 0) <= 3000:
            assert (number == inode, size) == (row.same, row.shown)
        number, data = await read(made, number, size)
        assert (number == inode, data) == (row.same, row.contents)
        service.listings[1, ""] = listing(len(row.contents), T1 if row.contents == V1[:3000] else T2)
        assert await poll(made, number) == (number, len(row.contents))
        if handle is not None:
            await made.operations.release(handle)
