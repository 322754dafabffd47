"""What the kernel asks while a process walks a large directory, without the kernel: the handlers and their inodes."""

import time
from collections.abc import Iterator
from typing import cast
from unittest.mock import patch

import pyfuse3
import pytest

from artifactfs.content.open_files import OpenFileTable
from artifactfs.fuse import operations
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.operations import Operations
from artifactfs.tree.listing import TreeTimes
from artifactfs.tree.tree import Tree
from tests import fakes
from tests.benchmarks.conftest import Loop, Measure

# What fits in the page that the kernel gives a readdir at a time: 152 bytes and the name for each.
TAKEN_AT_A_TIME = 24
CONTEXT = pyfuse3.RequestContext()


class Kernel:
    """Takes what a readdir replies, so many entries at a time."""

    def __init__(self) -> None:
        self.room = 0
        self.names: list[bytes] = []

    def take(self, _token: object, name: bytes, attributes: pyfuse3.EntryAttributes, _next_id: int) -> bool:
        """What pyfuse3.readdir_reply is to the handler; that one writes into the kernel's request."""
        if not self.room:
            return False
        self.room -= 1
        self.names.append(name)
        return True

    async def walk(self, handlers: Operations, directory: int) -> None:
        """Read a directory as `ls` has it read, from its opening to its closing."""
        self.names = []
        handle = await handlers.opendir(pyfuse3.InodeT(directory), CONTEXT)
        before = -1
        while len(self.names) > before:
            before, self.room = len(self.names), TAKEN_AT_A_TIME
            await handlers.readdir(handle, before, cast(pyfuse3.ReaddirToken, None))
        await handlers.releasedir(handle)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    with (
        patch.object(pyfuse3, "readdir_reply", kernel.take),
        patch.object(operations, "readdir_reply", kernel.take, create=True),
    ):
        yield kernel


@pytest.fixture
def tree(loop: Loop, entries: int) -> Tree:
    """A tree with one run, of which one flat directory is listed once, and then trusted."""
    files = {f"f{number:07d}.bin": 1000 + number % 977 for number in range(entries)}
    service = fakes.FakeService(
        runs={1001: fakes.run(1001)},
        listings={(1001, ""): fakes.directory(dirs=["flat"]), (1001, "flat"): fakes.directory(files)},
    )

    async def make() -> Tree:
        return Tree(
            service, site="site", nursery=loop.nursery, clock=time.monotonic, times=TreeTimes(listing_ttl=3600.0)
        )

    return loop.run(make)


async def mounted(tree: Tree) -> tuple[Operations, int]:
    """Return the handlers of a mount on which only the directory was looked at, and the directory's inode."""
    owner = Ownership(1000, 1000)
    # No file is opened here.
    handlers = Operations(tree, cast(OpenFileTable, None), owner, deadline_s=30.0, on_ready=lambda: None)
    inode = pyfuse3.ROOT_INODE
    for name in (b"runs", b"1001", b"flat"):
        inode = (await handlers.lookup(inode, name, CONTEXT)).st_ino
    await tree.contents(handlers.inodes.get(inode).node)
    return handlers, inode


def test_readdir(measure: Measure, loop: Loop, kernel: Kernel, tree: Tree, entries: int) -> None:
    """Answer readdir for the first time."""

    def walk(handlers: Operations, directory: int) -> tuple[Operations, int]:
        loop.run(kernel.walk, handlers, directory)
        names, kernel.names = kernel.names, []
        return handlers, len(names)

    handlers, taken = measure(walk, setup=lambda: loop.run(mounted, tree), entries=entries, memory=True)
    assert taken == entries + 2
    # The root, and the three above that were looked up on the way.
    assert len(handlers.inodes) == entries + 4


def test_readdir_again(measure: Measure, loop: Loop, kernel: Kernel, tree: Tree, entries: int) -> None:
    """Answer readdir again, every inode known."""
    handlers, inode = loop.run(mounted, tree)
    loop.run(kernel.walk, handlers, inode)
    measure(lambda: loop.run(kernel.walk, handlers, inode), entries=entries)
    assert len(kernel.names) == entries + 2


def test_lookup(measure: Measure, loop: Loop, kernel: Kernel, tree: Tree, entries: int) -> None:
    """Answer lookup, every inode known."""
    handlers, directory = loop.run(mounted, tree)
    loop.run(kernel.walk, handlers, directory)

    async def look() -> list[int]:
        return [(await handlers.lookup(directory, name, CONTEXT)).st_ino for name in kernel.names[2:]]

    assert len(set(measure(lambda: loop.run(look), entries=entries))) == entries


def test_getattr(measure: Measure, loop: Loop, kernel: Kernel, tree: Tree, entries: int) -> None:
    """Answer getattr."""
    handlers, directory = loop.run(mounted, tree)
    loop.run(kernel.walk, handlers, directory)

    async def look() -> list[pyfuse3.InodeT]:
        return [(await handlers.lookup(directory, name, CONTEXT)).st_ino for name in kernel.names[2:]]

    async def stat() -> list[pyfuse3.InodeT]:
        return [(await handlers.getattr(inode, CONTEXT)).st_ino for inode in inodes]

    inodes = loop.run(look)
    assert measure(lambda: loop.run(stat), entries=entries) == inodes
