"""The size that the kernel is shown of a file whose contents have told another one than the listing.

What is hard: the kernel keeps the last page of a file with zeros behind the end, and takes a larger size before it
drops that page by itself. So the pages of an open file are dropped first, and that waits for reads in flight. A program
that comes to the old end meanwhile would stop there, in the middle of the larger file (docs/semantics.md 4.1).
"""

from collections.abc import Awaitable, Callable, Container, Iterable
from functools import partial

import trio

from artifactfs.content.open_files import OpenFileTable
from artifactfs.content.reader import OpenFile
from artifactfs.fuse.inodes import Inode
from artifactfs.tree.nodes import ArtifactFile, Entry, may_have_grown
from artifactfs.tree.tree import Tree
from artifactfs.util.no_checkpoint import no_checkpoint

# How long a caller waits for the kernel to drop what it has of a file that grew. Arbitrary.
_SHOWN_S = 1.0


class ShownSizes:
    """See the module. `open_inodes`: the numbers of those that are open."""

    def __init__(self, tree: Tree, files: OpenFileTable, open_inodes: Container[int]) -> None:
        self._tree = tree
        self._files = files
        self._open_inodes = open_inodes
        # Have the kernel drop pages and attributes of inodes, or attributes alone: kernel_dentries.py.
        self.drop_pages: Callable[[Iterable[int]], Awaitable[object]] = _keep
        self.drop_attributes: Callable[[Iterable[int]], Awaitable[object]] = _keep
        # The inodes of open files that turned out to be larger, until the kernel may see that.
        self._coming: dict[int, trio.Event] = {}

    async def show(self, inode: Inode, entry: Entry, opened: OpenFile | None) -> None:
        """Let the kernel see the larger entry, which the contents of an open file have proven, or their own size."""
        before, size = inode.entry.size_bytes, opened.size if opened is not None else None
        if inode.number in self._open_inodes and max(entry.size_bytes or 0, size or 0) > (before or 0):
            await self.drop_pages([inode.number])
        if inode.superseded or inode.entry.size_bytes != before:
            return
        if may_have_grown(inode.entry, entry):
            inode.merge(Inode(entry.number, entry, inode.directory))
        self._record(inode, size)

    @no_checkpoint
    def note(self, inode: Inode, opened: OpenFile) -> None:
        """Record the size of the contents: what is open shows a larger one soon, as no read can wait for its pages."""
        size, before = opened.size, inode.entry.size_bytes
        if inode.number not in self._open_inodes or size is None or before is None or size <= before:
            self._record(inode, size)
        elif inode.number not in self._coming:
            self._coming[inode.number] = trio.Event()
            self._files.start_soon(partial(self._show_soon, inode, opened))

    async def wait(self, inode: Inode) -> None:
        """Wait until the kernel may see the size of the contents: a second at most, and for no request of ours."""
        if (coming := self._coming.get(inode.number)) is not None:
            with trio.move_on_after(_SHOWN_S):
                await coming.wait()

    async def before_answer(self, inode: Inode, opened: OpenFile) -> None:
        """Have the kernel ask for the size, if that grew, before it takes what is read now for the end of the file."""
        if (opened.size or 0) > (inode.entry.size_bytes or 0):
            self.note(inode, opened)
        if inode.number in self._coming:
            with trio.move_on_after(_SHOWN_S):
                await self.drop_attributes([inode.number])

    async def _show_soon(self, inode: Inode, opened: OpenFile) -> None:
        try:
            await self.show(inode, inode.entry, opened)
        finally:
            self._coming.pop(inode.number).set()

    def _record(self, inode: Inode, size: int | None) -> None:
        """Record the size of the contents where the listing lacks it, or gives another one."""
        file = inode.node
        if size is not None and isinstance(file, ArtifactFile) and size != file.entry.size_bytes:
            inode.entry = self._tree.record_size(file, size).entry


async def _keep(_inodes: Iterable[int]) -> None:
    """Leave the kernel what it has: in tests without one."""
