"""The protocol adapter: what the kernel asks, answered from the tree. Nothing else.

Every handler goes through `fuse_handler`, because an exception that leaves a handler ends the mount. What a handler
does after its last wait is `@no_checkpoint`, so that lookup counts and replies stay in step.
"""

import contextlib
import errno
import itertools
import logging
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NoReturn, TypeVar, cast

import cachetools
import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from artifactfs import errors
from artifactfs.content.open_files import OpenFileTable
from artifactfs.fuse import attributes, interrupts
from artifactfs.fuse.artifact_handles import ArtifactHandles, FileHandle
from artifactfs.fuse.attributes import Ownership
from artifactfs.fuse.control_files import ControlFiles
from artifactfs.fuse.error_boundary import fuse_handler
from artifactfs.fuse.handles import DirectoryHandle, KernelState
from artifactfs.fuse.inodes import Inode, InodeTable
from artifactfs.fuse.readdir import DOTS, ReaddirReplies
from artifactfs.fuse.sibling_readahead import SiblingReadahead
from artifactfs.tree.nodes import (
    ATTRIBUTES_S,
    AnyDirectory,
    ArtifactDir,
    ArtifactFile,
    ControlDir,
    ControlFile,
    DirSnapshot,
    GeneratedFile,
    LookupResult,
    Node,
    Symlink,
)
from artifactfs.tree.tree import Tree
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

T = TypeVar("T")

# A directory's time moves with its run, and a look at it that comes without a lookup says nothing of the name.
_DIRECTORY_VALID_S = 1.0
_NAME_MAX = 255
# A file is polled if the kernel asks for its attributes, or for its listing, again within this time. Arbitrary.
_POLL_LEAST_S, _POLL_MOST_S = 0.5, 30.0
_MAX_POLLED = 10_000


class Operations(pyfuse3.Operations):
    """The handlers. `on_ready` is called once, with the first request of the kernel."""

    # Only an NFS export needs this; without it no lookups of "." and ".." come.
    supports_dot_lookup = False

    def __init__(
        self,
        tree: Tree,
        files: OpenFileTable,
        ownership: Ownership,
        *,
        deadline_s: float,
        on_ready: Callable[[], None],
        control_files: ControlFiles | None = None,
    ) -> None:
        super().__init__()
        self.deadline_s = deadline_s
        self._tree = tree
        self._artifacts = ArtifactHandles(tree, files, deadline_s=deadline_s)
        self.asks_contents = self._artifacts.asks_contents
        self.siblings: SiblingReadahead | None = None
        self._on_ready = on_ready
        self._control_files = control_files or ControlFiles()
        self._ownership = ownership
        self.inodes = InodeTable([tree.root])
        self.inodes.holds_back = self._artifacts.holds_back
        # Its `watch` is to run as long as the mount does.
        self.calls = interrupts.PendingCalls()
        self._directories: dict[int, DirectoryHandle] = {}
        self._open_files: dict[int, FileHandle] = {}
        # When the kernel asked for the attributes of a file, or for a listing.
        self._polled_at: cachetools.LRUCache[int, float] = cachetools.LRUCache(_MAX_POLLED)
        self._handles = itertools.count(1)
        # How often the account has changed.
        self._switches = 0
        # Files whose pages the kernel must drop at the next open.
        self._invalid_pages: set[int] = set()
        self._readdir = ReaddirReplies(self.inodes, ownership, self._attributes)

    def switch_account(self) -> list[int]:
        """Show nothing more of the account before (docs/semantics.md 6.3); returns the inodes that the kernel may have.

        It is to drop what it has of them; of a file where that fails, when the file is opened the next time.
        """
        self._switches += 1
        self._invalid_pages = self.inodes.files()
        self._control_files.end_generated()
        for handle in self._directories.values():
            handle.started = handle.is_outdated = True
        return self.inodes.numbers()

    def on_listed(self, run_id: int, path: str) -> None:
        """A directory was listed because programs follow files in it: see which of its open files have grown."""
        self._artifacts.listed(run_id, path, self.inodes)

    async def refresh(self, is_meant: Callable[[tuple[int, str]], bool]) -> set[int]:
        """Let open files in directories, by run id and path, show their new sizes; returns their inodes (3.3)."""
        return await self._artifacts.refresh(is_meant, self.inodes)

    def on_superseded(self, drop: Callable[[int, bytes], None]) -> None:
        """Call `drop` with the parent's number and the name of each file that turns out to be another version."""
        self._artifacts.on_superseded = drop

    def on_growth(
        self,
        drop_pages: Callable[[Iterable[int]], Awaitable[object]],
        drop_attributes: Callable[[Iterable[int]], Awaitable[object]],
    ) -> None:
        """Call these with the inodes of open files before they are shown larger."""
        sizes = self._artifacts.sizes
        sizes.drop_pages, sizes.drop_attributes = drop_pages, drop_attributes

    def show_new_times(self, run_id: int) -> set[int]:
        """Show the new times of a run's files in open directories; returns the inodes that the kernel must drop."""
        for handle in self._directories.values():
            if isinstance(handle.directory, ArtifactDir) and handle.directory.run_id == run_id:
                handle.show(partial(self._tree.current, handle.directory))
        return self.inodes.files(lambda directory: directory.run_id == run_id)

    def on_dropped(self, inodes: set[int]) -> int:
        """Contents of these inodes were dropped (docs/semantics.md 3.6): so must their pages be, at the next open.

        Returns the number of open files that are superseded by that.
        """
        self._invalid_pages = {number for number in self._invalid_pages if self.inodes.find(number)} | inodes
        return self._artifacts.supersede_dropped()

    def init(self) -> None:
        """The kernel begins to talk to us. Must not raise: pyfuse3 would end the mount."""
        try:
            self._on_ready()
        except Exception:
            log.exception("reporting that the mount is ready failed")

    @fuse_handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes.node(parent_inode)
        try:
            found = self._tree.try_lookup(parent, name) or self._private(parent, name, ctx)
            if found is None:
                found = await self._of_one_account(ctx.pid, lambda: self._tree.lookup(parent, name))
            if isinstance(found.node, ArtifactFile) and found.node.entry.size_bytes is None:
                found = await self._await_for_caller(ctx.pid, self._artifacts.with_size(found), math.inf)
        except errors.NoSuchEntry as absence:
            if absence.valid_s <= 0:
                raise
            negative = EntryAttributes()
            negative.st_ino = 0
            negative.entry_timeout = negative.attr_timeout = absence.valid_s
            return negative
        return self._count_lookup(found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        # Not even a FUSEError may leave here.
        try:
            for number, lookups in inode_list:
                self.inodes.forget(number, lookups)
        except Exception:
            with contextlib.suppress(MemoryError):
                log.exception("forget failed: %s", errors.unexpected())

    @fuse_handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        # From the inode, never from the network (docs/semantics.md 2.5): a page read asks for it first.
        found = self.inodes.get(inode)
        attributes_s = ATTRIBUTES_S
        if found.directory is not None and not found.entry.is_dir:
            await self._artifacts.sizes.wait(found)
            # The kernel asks again only when the attribute timeout has ended, so a second look soon after is a poll.
            is_polled = self._is_polled(inode)
            attributes_s = self._tree.attributes_left_s(found.directory, followed=is_polled)
            self.inodes.update(found, self._tree.current(found.directory, found.entry))
            if is_polled and attributes_s < ATTRIBUTES_S:
                self._artifacts.polled(found)
            if inode in self._artifacts.proving:
                attributes_s = 0.0
        return self._attributes(found, _DIRECTORY_VALID_S, attributes_s)

    @fuse_handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        link = self.inodes.node(inode)
        if not isinstance(link, Symlink):
            raise errors.NotALink("not a symbolic link")
        return link.target

    @fuse_handler
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        opened = self.inodes.get(inode)
        directory = opened.node
        if isinstance(directory, ArtifactFile | Symlink | ControlFile | GeneratedFile):
            raise errors.NotADirectory("not a directory")
        if isinstance(directory, ControlDir):
            self._control_files.check(ctx)
        contents = await self._contents(ctx.pid, directory)
        if isinstance(directory, ArtifactDir) and self._is_polled(inode):
            # The kernel takes the attributes of the files from the listing, and then does not ask for them.
            self._tree.attributes_left_s(directory, followed=True)
        return self._register_directory(DirectoryHandle(opened, directory, contents, ctx.pid))

    @fuse_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        handle = self._directories[fh]
        if start_id == 0 and handle.started:
            # rewinddir: POSIX wants the directory as it is now.
            handle.contents = await self._contents(handle.tid, handle.directory)
            handle.is_outdated = False
        if handle.is_outdated:
            raise errors.Superseded("the rest of this directory is of another account")
        handle.started = True
        # The last question of each walk through a directory is what comes after its last entry.
        if start_id < DOTS + len(handle.contents.shown):
            self._readdir.reply(handle, start_id, token)

    @fuse_handler
    async def releasedir(self, fh: int) -> None:
        self._directories.pop(fh, None)

    @fuse_handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        opened = self.inodes.get(inode)
        file = opened.node
        if isinstance(file, ControlFile):
            self._control_files.check(ctx)
            made = await self._await_for_caller(ctx.pid, self._control_files.make(file))
            return self._control_files.opened(next(self._handles), inode, made)
        if isinstance(file, GeneratedFile):
            return self._control_files.generated(next(self._handles), inode, self._tree.contents_of(file))
        if not isinstance(file, ArtifactFile):
            raise errors.IsADirectory("a directory is not read like a file")
        # Its size, where it is not known, comes with content, and that has no limit as long as it comes.
        opening = self._artifacts.open(opened, file, ctx.pid, stream=bool(flags & os.O_DIRECT))
        handle = await self._await_for_caller(ctx.pid, opening, math.inf)
        return self._register_file(handle, inode)

    @fuse_handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        if (handle := self._open_files.get(fh)) is None:
            return self._control_files.read(fh, off, size)
        found = handle.opened.try_read(off, size) if handle.opened.size == handle.inode.entry.size_bytes else None
        if found is None:
            found = await self._await_for_caller(handle.tid, self._artifacts.read(handle, off, size), math.inf)
        if off == 0 and self.siblings is not None:
            self.siblings.on_read(handle.file, handle.opened)
        return cast("bytes", found)  # a view of what is in memory, not a copy: the binding takes any buffer

    @fuse_handler
    async def release(self, fh: int) -> None:
        if (handle := self._open_files.pop(fh, None)) is not None:
            self._artifacts.close(handle)
        else:
            self._control_files.close(fh)

    @fuse_handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        # Sizes of 0 mark a filesystem without a device, like /proc: `df` leaves it out of its totals.
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = data.f_files = data.f_ffree = data.f_favail = 0
        data.f_namemax = _NAME_MAX
        return data

    def state(self) -> KernelState:
        """Return what the kernel holds, for status."""
        sizeless = sum(handle.opened.size is None for handle in self._open_files.values())
        return KernelState(len(self.inodes), len(self._open_files), len(self._directories), sizeless)

    def node_of(self, number: int, *, is_open: bool) -> Node | None:
        """Return the place of an inode, or of a handle (`is_open`); None where there is none."""
        if not is_open:
            inode = self.inodes.find(number)
            return inode.node if inode is not None else None
        if (opened := self._directories.get(number) or self._open_files.get(number)) is not None:
            return opened.directory if isinstance(opened, DirectoryHandle) else opened.file
        report = self.inodes.find(self._control_files.number_of(number))
        return report.node if report is not None else None

    def _is_polled(self, number: int) -> bool:
        """Take note of a look at a file or a directory; returns whether one came shortly before."""
        now = trio.current_time()
        since_s = now - self._polled_at.get(number, -math.inf)
        if since_s >= _POLL_LEAST_S:
            self._polled_at[number] = now
        return _POLL_LEAST_S <= since_s <= _POLL_MOST_S

    def _private(self, parent: Node, name: bytes, ctx: RequestContext) -> LookupResult | None:
        if isinstance(parent, ControlDir):
            return self._control_files.find(parent, name, ctx)
        return self._control_files.hidden(name) if parent is self._tree.root else None

    async def _contents(self, tid: int, directory: AnyDirectory) -> DirSnapshot:
        if isinstance(directory, ControlDir):
            return self._control_files.contents(directory)
        if (contents := self._tree.try_list(directory)) is not None:
            return contents
        return await self._of_one_account(tid, lambda: self._tree.contents(directory))

    async def _of_one_account(self, tid: int, ask: Callable[[], Awaitable[T]]) -> T:
        """Wait as `_await_for_caller` does; ask again where the account changed meanwhile (docs/semantics.md 6.3)."""
        while True:
            switches = self._switches
            try:
                found = await self._await_for_caller(tid, ask())
            except errors.TreeError:
                if switches == self._switches:
                    raise
            else:
                if switches == self._switches:
                    return found

    async def _await_for_caller(self, tid: int, answer: Awaitable[T], limit_s: float | None = None) -> T:
        """Wait for an answer on behalf of a thread, until a signal is pending for the thread (docs/semantics.md 5.2).

        Metadata has the deadline as its total limit; contents have a limit of their own (docs/semantics.md 5.1).
        """
        limit_s = self.deadline_s if limit_s is None else limit_s
        with trio.move_on_after(limit_s) as scope, interrupts.pending(self.calls, tid, scope) as wait:
            return await answer
        if wait.interrupted:
            raise FUSEError(errno.EINTR)
        if wait.ended:
            raise FUSEError(errno.ENOTCONN)
        raise errors.TimedOut(f"no answer within {self.deadline_s:g} s")

    @no_checkpoint
    def _count_lookup(self, found: LookupResult) -> EntryAttributes:
        """Return the attributes of what a lookup found, and count it: a `forget` comes before both, or after."""
        inode = self.inodes.intern(found.node)
        attributes_s = 0.0 if inode.number in self._artifacts.proving else found.attributes_s
        shown = self._attributes(inode, found.valid_s, attributes_s)
        self.inodes.add_lookup(inode)
        return shown

    def _attributes(self, inode: Inode, valid_s: float, attributes_s: float = ATTRIBUTES_S) -> EntryAttributes:
        """Return what `stat` shows of an inode (see attributes.of_inode)."""
        if isinstance(inode.cached_node, ControlDir | ControlFile):
            return self._control_files.attributes(inode.cached_node, inode.number, valid_s)
        return attributes.of_inode(self._ownership, inode, valid_s, attributes_s)

    @no_checkpoint
    def _register_directory(self, opened: DirectoryHandle) -> int:
        """Return the handle of an open directory."""
        handle = next(self._handles)
        self._directories[handle] = opened
        return handle

    @no_checkpoint
    def _register_file(self, handle: FileHandle, inode: int) -> pyfuse3.FileInfo:
        """Return the handle of an open file, and what the kernel may keep of the file."""
        number = next(self._handles)
        self._open_files[number] = handle
        # Another version is another inode, so what the kernel has of this one is still true. Without a size it
        # cannot keep anything: it would stop at 0.
        keep = handle.opened.size is not None and inode not in self._invalid_pages
        self._invalid_pages.discard(inode)
        return pyfuse3.FileInfo(fh=number, keep_cache=keep, direct_io=handle.opened.size is None)

    async def _refuse(self, *_: object) -> NoReturn:
        # The mount is `ro`, so the kernel refuses before it asks; this is for a remount.
        raise FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse  # type: ignore[assignment]
    write = create = setxattr = removexattr = _refuse  # type: ignore[assignment]
