"""The protocol adapter: what the kernel asks, answered from the tree. Nothing else.

Every handler goes through `guarded`: an exception of ours becomes its errno, any other is logged and becomes
EIO, because an exception that leaves a handler ends the mount (pitfalls.md). From `# no await below:` on a
handler does not let another task run, so that lookup counts and replies stay in step.
"""

import errno
import functools
import logging
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

import msgspec
import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from artifactfs import errors
from artifactfs.content.files import Files, FileVersion
from artifactfs.content.reader import OpenFile
from artifactfs.fuse.inodes import Inode, Inodes
from artifactfs.tree.nodes import File, Node
from artifactfs.tree.tree import Contents, Tree

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A version's attributes do not change, so how long the kernel keeps them is arbitrary; names have times of
# their own.
_ATTRIBUTES_VALID_S = 3600.0
# A directory's time moves with its run, and a look at it that comes without a lookup says nothing of the name.
_DIRECTORY_VALID_S = 1.0
# What `stat` shows as the preferred size of a read: what the kernel asks for at most at a time.
_BLOCK_SIZE = 128 << 10
_NAME_MAX = 255
# What the content endpoint answers where there is no such artifact, among other things: a fresh listing of the
# directory decides (model-lab-api.md, "Status to errno"). A body that is too short is doubted the same way.
_MAY_BE_GONE = (errors.NotFound, errors.BadRequest, errors.ServerFailed, errors.ShortBody)
# "." and ".." come before the entries.
_DOTS = 2


class Ownership(msgspec.Struct, frozen=True):
    """Who owns everything, and which permission bits are off (semantics 2.1). `shared`: others are let in."""

    uid: int
    gid: int
    umask: int = 0
    shared: bool = False

    @property
    def sizeless_umask(self) -> int:
        """Bits that are off as long as a file's size is unknown.

        GNU tar does not open a file of 0 bytes that everybody may read, and stores nothing of it, without a word (1.34,
        measured 2026-11-23). Where nobody else is let in, others' bit means nothing, so it can be left out.
        """
        return self.umask if self.shared else self.umask | stat.S_IROTH


def guarded(
    handler: Callable[Concatenate["Operations", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Operations", P], Coroutine[Any, Any, T]]:
    """Wrap a handler: nothing but FUSEError (and a cancellation) gets out of it."""

    @functools.wraps(handler)
    async def guard(self: "Operations", *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except errors.ServiceError as error:
            log.warning("%s: %s", handler.__name__, error)
            raise FUSEError(errors.errno_of(error)) from error
        except errors.ArtifactfsError as error:
            raise FUSEError(errors.errno_of(error)) from error
        except Exception as error:
            log.exception("%s failed: this is a bug in artifactfs, please report it", handler.__name__)
            raise FUSEError(errno.EIO) from error

    return cast("Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]", guard)


def bounded(
    handler: Callable[Concatenate["Operations", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Operations", P], Coroutine[Any, Any, T]]:
    """Wrap a handler of metadata, which has a limit in all (semantics 5.1); contents have one of their own."""

    @functools.wraps(handler)
    async def bound(self: "Operations", *args: P.args, **kwargs: P.kwargs) -> T:
        with trio.move_on_after(self.deadline_s):
            return await handler(self, *args, **kwargs)
        raise errors.TimedOut(f"no answer within {self.deadline_s:g} s")

    return cast("Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]", bound)


class _DirectoryHandle:
    """An open directory: its contents frozen when it was opened, so that cookies stay true."""

    __slots__ = ("contents", "inode", "started")

    def __init__(self, inode: Inode, contents: Contents) -> None:
        self.inode = inode
        self.contents = contents
        self.started = False


class Operations(pyfuse3.Operations):
    """The handlers. `on_ready` is called once, when the kernel has begun to talk to us."""

    # Nobody exports a FUSE mount of ours over NFS; without it no lookups of "." and ".." come.
    supports_dot_lookup = False

    def __init__(
        self,
        tree: Tree,
        files: Files,
        ownership: Ownership,
        *,
        deadline_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__()
        self.deadline_s = deadline_s
        self._tree = tree
        self._files = files
        self._ownership = ownership
        self._on_ready = on_ready
        self.inodes = Inodes([tree.root])
        self._directories: dict[int, _DirectoryHandle] = {}
        self._open_files: dict[int, tuple[Inode, File, OpenFile]] = {}
        self._next_handle = 1

    def init(self) -> None:
        """The kernel begins to talk to us. Must not raise: pyfuse3 would end the mount."""
        try:
            self._on_ready()
        except Exception:
            log.exception("reporting that the mount is ready failed")

    @guarded
    @bounded
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes.get(parent_inode).node
        try:
            found = await self._tree.lookup(parent, name)
        except errors.NoSuchEntry as absence:
            if absence.valid_s <= 0:
                raise
            negative = EntryAttributes()
            negative.st_ino = 0
            negative.entry_timeout = negative.attr_timeout = absence.valid_s
            return negative
        # no await below:
        inode = self.inodes.intern(found.node)
        attributes = self._attributes(inode, found.valid_s)
        self.inodes.count(inode)
        return attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        # Not even a FUSEError may leave here.
        try:
            for number, lookups in inode_list:
                self.inodes.forget(number, lookups)
        except Exception:
            log.exception("forget failed: this is a bug in artifactfs, please report it")

    @guarded
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        # From the inode, never from the network (semantics 2.5): a page read asks for it first.
        return self._attributes(self.inodes.get(inode), _DIRECTORY_VALID_S)

    @guarded
    @bounded
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        opened = self.inodes.get(inode)
        contents = await self._tree.contents(opened.node)
        # no await below:
        handle = self._new_handle()
        self._directories[handle] = _DirectoryHandle(opened, contents)
        return handle

    @guarded
    @bounded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        handle = self._directories[fh]
        if start_id == 0 and handle.started:
            # rewinddir: POSIX wants the directory as it is now.
            handle.contents = await self._tree.contents(handle.inode.node)
        # no await below:
        handle.started = True
        if start_id < _DOTS and not self._reply_dots(handle, start_id, token):
            return
        contents = handle.contents
        valid_s = contents.left_s()
        node_of, intern, count = contents.node_of, self.inodes.intern, self.inodes.count
        entries = contents.entries
        attributes = EntryAttributes()
        for position in range(max(0, start_id - _DOTS), len(entries)):
            entry = entries[position]
            inode = intern(node_of(entry))
            self._fill(attributes, inode, valid_s)
            if not pyfuse3.readdir_reply(token, entry.name, attributes, position + _DOTS + 1):
                return
            count(inode)

    @guarded
    async def releasedir(self, fh: int) -> None:
        self._directories.pop(fh, None)

    @guarded
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        opened = self.inodes.get(inode)
        file = opened.node
        if not isinstance(file, File):
            raise errors.IsADirectory("a directory is not read like a file")
        if opened.superseded:
            raise errors.Superseded("another version of this file is there by now")
        self._tree.check(file)
        try:
            location = await self._tree.locate(file)
            handle = await self._files.open(FileVersion(location.artifact, file.entry.size_bytes, location.run_stamp))
        except errors.Superseded:
            # The kernel looks the name up again, and must get another inode: it holds pages of this one.
            opened.superseded = True
            raise
        except _MAY_BE_GONE as error:
            raise await self._why(opened, file, error, gone=errno.ENOENT) from error
        # no await below:
        if file.entry.size_bytes is None and handle.size is not None:
            opened.node = self._tree.learned(file, handle.size)
        number = self._new_handle()
        self._open_files[number] = (opened, file, handle)
        # Another version is another inode, so what the kernel has of this one is still true. Without a size it
        # cannot keep anything: it would stop at 0.
        return pyfuse3.FileInfo(fh=number, keep_cache=handle.size is not None, direct_io=handle.size is None)

    @guarded
    async def read(self, fh: int, off: int, size: int) -> bytes:
        inode, file, handle = self._open_files[fh]
        try:
            # A view of what is in memory, not a copy: the binding takes any buffer.
            return await handle.read(off, size)  # type: ignore[return-value]
        except errors.Superseded as error:
            if not inode.superseded:
                log.warning("a file of run %d changed while it was read: %s", file.directory.run_id, error)
                inode.superseded = True
                self._tree.contradicted(file, error.size_bytes)
            raise
        except _MAY_BE_GONE as error:
            raise await self._why(inode, file, error, gone=errno.ESTALE) from error

    @guarded
    async def release(self, fh: int) -> None:
        if (opened := self._open_files.pop(fh, None)) is not None:
            opened[2].close()

    async def _why(self, inode: Inode, file: File, error: errors.ServiceError, *, gone: int) -> FUSEError:
        """Say why a content cannot be read: a fresh listing knows whether the file is gone, or a directory."""
        log.warning("content of a file of run %d: %s", file.directory.run_id, error)
        inode.superseded = True
        self._tree.doubt(file.directory)
        try:
            with trio.fail_after(self.deadline_s):
                found = await self._tree.lookup(file.directory, file.entry.name)
        except errors.NoSuchEntry:
            return FUSEError(gone)
        except trio.TooSlowError:
            return FUSEError(errno.ETIMEDOUT)
        if not isinstance(found.node, File):
            return FUSEError(errno.EISDIR if gone == errno.ENOENT else errno.ESTALE)
        return FUSEError(errno.EIO)

    @guarded
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        # Sizes of 0 mark a filesystem without a device, like /proc: `df` leaves it out of its totals.
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 0
        data.f_files = data.f_ffree = data.f_favail = 0
        data.f_namemax = _NAME_MAX
        return data

    def _new_handle(self) -> int:
        handle = self._next_handle
        self._next_handle += 1
        return handle

    def _reply_dots(self, handle: _DirectoryHandle, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        # The kernel counts no lookup for these two, so neither do we.
        dots = ((b".", handle.inode.number), (b"..", self._parent_number(handle.inode.node)))
        for position in range(start_id, _DOTS):
            name, number = dots[position]
            attributes = EntryAttributes()
            self._fill(attributes, handle.inode, 0.0)
            attributes.st_ino = number
            if not pyfuse3.readdir_reply(token, name, attributes, position + 1):
                return False
        return True

    @staticmethod
    def _parent_number(node: Node) -> int:
        return node.directory.entry.number if isinstance(node, File) else node.parent_number

    def _attributes(self, inode: Inode, valid_s: float) -> EntryAttributes:
        attributes = EntryAttributes()
        self._fill(attributes, inode, valid_s)
        return attributes

    def _fill(self, attributes: EntryAttributes, inode: Inode, valid_s: float) -> None:
        """Write the attributes of an inode over `attributes` (semantics 2.1 to 2.3)."""
        entry = inode.node.entry
        owner = self._ownership
        attributes.st_ino = inode.number
        attributes.entry_timeout = valid_s
        attributes.st_uid = owner.uid
        attributes.st_gid = owner.gid
        # 1 link: find does not count on directories' links.
        attributes.st_nlink = 1
        attributes.st_blksize = _BLOCK_SIZE
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = entry.mtime_ns
        if entry.is_dir:
            attributes.st_mode = (stat.S_IFDIR | 0o555) & ~owner.umask
            attributes.st_size = attributes.st_blocks = 0
            # A run's directory has a time that moves with the run.
            attributes.attr_timeout = valid_s
            return
        size = entry.size_bytes
        attributes.st_mode = (stat.S_IFREG | 0o444) & ~(owner.sizeless_umask if size is None else owner.umask)
        attributes.st_size = size or 0
        attributes.st_blocks = ((size or 0) + 511) >> 9
        attributes.attr_timeout = 0.0 if size is None else _ATTRIBUTES_VALID_S

    async def _refuse(self, *_: object) -> NoReturn:
        # The mount is `ro`, so the kernel refuses before it asks; this is for whoever remounts it.
        raise FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse  # type: ignore[assignment]
    write = create = setxattr = removexattr = _refuse  # type: ignore[assignment]
