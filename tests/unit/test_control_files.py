"""artifactfs.tree.control_dir and fuse.control_files: the files in /.artifactfs (5.1, 6.2)."""

import errno
import os
import stat
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock

from artifactfs.content.open_files import OpenFileTable
from artifactfs.errors import Superseded
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.control_files import ControlFiles
from artifactfs.fuse.operations import Operations
from artifactfs.fuse.xattrs import OperationsWithXattrs
from artifactfs.tree.control_dir import ControlNames
from artifactfs.tree.nodes import Node
from artifactfs.tree.tree import Tree
from tests.fakes import NOW_NS, FakeService, TurnedClock, run
from tests.unit.test_operations import Kernel

OWNER: Any = SimpleNamespace(pid=0, uid=os.geteuid())
ROOT: Any = SimpleNamespace(pid=0, uid=0)
OTHER: Any = SimpleNamespace(pid=0, uid=54321)


class Said:
    """What the reports say: longer each time."""

    def __init__(self) -> None:
        self.times = 0
        self.commands: list[int] = []

    def make(self) -> bytes:
        self.times += 1
        return b"x" * self.times

    async def order(self, number: int) -> bytes:
        self.commands.append(number)
        await trio.sleep(1)
        return b"done %d" % number


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(pyfuse3, "readdir_reply", kernel.reply)
    return kernel


@pytest.fixture
async def tree(nursery: trio.Nursery) -> Tree:
    service = FakeService(runs={1: run(1)})
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


@pytest.fixture
async def operations(tree: Tree, said: Said) -> Operations:
    files: OpenFileTable = None  # type: ignore[assignment]  # nothing here reads an artifact
    generators, commands = {"a": said.make}, {"do": said.order}
    control_files = ControlFiles(ControlNames(b"test", NOW_NS, generators, commands), generators, commands)
    ownership = Ownership(1000, 100, 0o700, 0o600)
    return Operations(tree, files, ownership, deadline_s=5.0, on_ready=lambda: None, control_files=control_files)


async def find(operations: Operations, *names: str, who: Any = OWNER) -> int:
    number: int = pyfuse3.ROOT_INODE
    for name in names:
        number = (await operations.lookup(number, name.encode(), who)).st_ino
    return number


async def refused(call: Callable[[], Any], number: int) -> bool:
    with pytest.raises(FUSEError) as caught:
        await call()
    return caught.value.errno == number


async def test_it_is_found_and_not_listed(operations: Operations, kernel: Kernel) -> None:
    """5.1: no user sees it in the root; in it are the reports, and not where orders go."""
    root = await operations.opendir(pyfuse3.ROOT_INODE, OWNER)
    assert b".artifactfs" not in await kernel.read(operations, root)
    top = await find(operations, ".artifactfs")
    handle = await operations.opendir(top, OWNER)
    for _ in range(2):  # and again after rewinddir
        assert await kernel.read(operations, handle) == [b".", b"..", b"a"]
    commands = await operations.opendir(await find(operations, ".artifactfs", "do"), OWNER)
    assert await kernel.read(operations, commands) == [b".", b".."]
    attributes = await operations.getattr(top, OWNER)
    assert (attributes.st_mode, attributes.st_uid, attributes.attr_timeout) == (stat.S_IFDIR | 0o700, os.geteuid(), 0)


async def test_a_handle_keeps_what_it_was_opened_with(operations: Operations, said: Said) -> None:
    """5.1: a report is made at each open; an open one stays; the size is the newest open one's, or the next one's."""
    number = await find(operations, ".artifactfs", "a")
    before = said.times
    first = await operations.open(number, os.O_RDONLY, OWNER)
    second = await operations.open(number, os.O_RDONLY, OWNER)
    assert first.direct_io
    assert not first.keep_cache
    for _ in range(2):
        assert await operations.read(first.fh, 0, 100) == b"x" * (before + 1)
        assert await operations.read(second.fh, 1, 100) == b"x" * (before + 1)
    attributes = await operations.getattr(number, OWNER)
    assert (attributes.st_size, attributes.st_mode, attributes.attr_timeout) == (before + 2, stat.S_IFREG | 0o600, 0)
    await operations.release(second.fh)
    assert (await operations.getattr(number, OWNER)).st_size == before + 1
    await operations.release(first.fh)
    assert (await operations.getattr(number, OWNER)).st_size == before + 3
    assert (await operations.lookup(await find(operations, ".artifactfs"), b"a", OWNER)).st_size == before + 4


async def test_an_order_is_carried_out_when_it_is_opened(
    operations: Operations, said: Said, autojump_clock: MockClock
) -> None:
    """3.3: not when it is looked up, nor by `stat`."""
    number = await find(operations, ".artifactfs", "do", "123")
    assert (await operations.getattr(number, OWNER)).st_size == 0
    assert said.commands == []
    opened = await operations.open(number, os.O_RDONLY, ROOT)
    assert await operations.read(opened.fh, 0, 100) == b"done 123"
    assert said.commands == [123]


@pytest.mark.parametrize("name", ["0", "01", "-1", "1x", "", "9" * 20, "a"])
async def test_what_is_no_order(name: str, operations: Operations, said: Said) -> None:
    """5.1: an order is about an inode's number, and nothing else."""
    parent = await find(operations, ".artifactfs", "do")
    assert await refused(lambda: operations.lookup(parent, name.encode(), OWNER), errno.ENOENT)


async def test_others_are_refused(operations: Operations, said: Said) -> None:
    """6.2: also where the kernel should ask for them: by name, to list, to open."""
    top = await find(operations, ".artifactfs")
    report = await find(operations, ".artifactfs", "a")
    order = await find(operations, ".artifactfs", "do", "1")
    times = said.times
    assert await refused(lambda: operations.lookup(top, b"a", OTHER), errno.EACCES)
    assert await refused(lambda: operations.opendir(top, OTHER), errno.EACCES)
    assert await refused(lambda: operations.open(report, os.O_RDONLY, OTHER), errno.EACCES)
    assert await refused(lambda: operations.open(order, os.O_RDONLY, OTHER), errno.EACCES)
    assert (said.times, said.commands) == (times, [])
    for who in (OWNER, ROOT):
        await operations.open(report, os.O_RDONLY, who)


async def test_what_it_is_not(operations: Operations) -> None:
    """5.1: a report is no directory, a directory no file; in other directories there is none of it."""
    report = await find(operations, ".artifactfs", "a")
    assert await refused(lambda: operations.opendir(report, OWNER), errno.ENOTDIR)
    assert await refused(lambda: operations.lookup(report, b"x", OWNER), errno.ENOTDIR)
    top = await find(operations, ".artifactfs")
    assert await refused(lambda: operations.open(top, os.O_RDONLY, OWNER), errno.EISDIR)
    with pytest.raises(FUSEError):
        await operations.readlink(report, OWNER)
    runs = await find(operations, "runs")
    assert (await operations.lookup(runs, b".artifactfs", OWNER)).st_ino == 0


async def test_the_numbers_stay(operations: Operations) -> None:
    """2.4: looked up again, a report is the same inode, and the kernel's counts come out even."""
    first = await find(operations, ".artifactfs", "a")
    assert await find(operations, ".artifactfs", "a") == first
    numbers = {await find(operations, ".artifactfs"), await find(operations, ".artifactfs", "do"), first}
    assert len(numbers) == 3
    assert not numbers & {pyfuse3.ROOT_INODE, await find(operations, "runs")}


async def test_a_mount_without_reports(tree: Tree) -> None:
    """5.1: without reports there is no such directory."""
    files: OpenFileTable = None  # type: ignore[assignment]
    bare = Operations(tree, files, Ownership(0, 0), deadline_s=5.0, on_ready=lambda: None)
    assert (await bare.lookup(pyfuse3.ROOT_INODE, b".artifactfs", OWNER)).st_ino == 0


# --- xattrs -------------------------------------------------------------------------------------------------


async def test_xattrs(tree: Tree, autojump_clock: MockClock) -> None:
    """2.6: off, the kernel hears ENOSYS; on, names are listed, values come, what there is not is ENODATA."""
    files: OpenFileTable = None  # type: ignore[assignment]

    async def late() -> bytes:
        await trio.sleep(100)
        return b"late"

    async def value() -> bytes:
        return b"v"

    async def none() -> None:
        return None

    async def large() -> bytes:
        return b"x" * ((64 << 10) + 1)

    def xattrs(node: Node) -> Any:
        assert node is tree.root
        return {b"user.a": value, b"user.none": none, b"user.late": late, b"user.large": large}

    ownership = Ownership(0, 0)
    off = Operations(tree, files, ownership, deadline_s=5.0, on_ready=lambda: None)
    assert await refused(lambda: off.getxattr(1, b"user.a", OWNER), errno.ENOSYS)
    assert await refused(lambda: off.listxattr(1, OWNER), errno.ENOSYS)
    on = OperationsWithXattrs(tree, files, ownership, deadline_s=5.0, on_ready=lambda: None, xattrs=xattrs)
    assert await on.listxattr(1, OWNER) == [b"user.a", b"user.none", b"user.late", b"user.large"]
    assert await on.getxattr(1, b"user.a", OWNER) == b"v"
    for name, number in ((b"user.b", errno.ENODATA), (b"user.none", errno.ENODATA), (b"user.late", errno.ETIMEDOUT)):
        assert await refused(lambda name=name: on.getxattr(1, name, OWNER), number)  # type: ignore[misc]
    assert await refused(lambda: on.getxattr(1, b"user.large", OWNER), errno.E2BIG)


def test_generated_files_of_another_account() -> None:
    """6.3: what is in an open table came with the old keys: its reads fail, and those of reports go on."""
    files = ControlFiles()
    files.generated(7, 70, b"of one")
    files.opened(8, 80, b"report")
    assert files.read(7, 3, 10) == b"one"
    files.end_generated()
    with pytest.raises(Superseded):
        files.read(7, 0, 10)
    files.close(7)
    assert files.read(8, 0, 10) == b"report"
