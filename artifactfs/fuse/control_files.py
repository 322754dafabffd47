"""The files in /.artifactfs, as the kernel sees them: who may, what `stat` shows, what an open one holds.

The bytes of a file are generated at `open` and belong to the handle, so that a reader sees one moment. `stat` shows the
size of the newest handle, or else of a report generated now. Reports come from memory and never wait; commands may.
"""

import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable, Mapping

from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from artifactfs import errors
from artifactfs.tree.control_dir import NAME, ControlNames
from artifactfs.tree.nodes import ControlDir, ControlFile, DirSnapshot, LookupResult

# Makes a report. Never waits for anything.
ReportGenerator = Callable[[], bytes]
# Answers about the place with an inode number, which is in use.
ControlCommand = Callable[[int], Awaitable[bytes]]

_BLOCK_SIZE = 128 << 10
# The directory never goes away while the mount is there.
_NAME_VALID_S = 3600.0


class ControlFiles:
    """The private files of one mount; without `reports` there are none.

    They are the process's user's, and root's, whatever the mount shows of other files.
    """

    def __init__(
        self,
        reports: ControlNames | None = None,
        generators: Mapping[str, ReportGenerator] | None = None,
        commands: Mapping[str, ControlCommand] | None = None,
    ) -> None:
        self._reports = reports
        self._generators = generators or {}
        self._commands = commands or {}
        self._uid, self._gid = os.geteuid(), os.getegid()
        # By handle: the inode's number, and what is in it.
        self._open: dict[int, tuple[int, bytes]] = {}
        # The handles of generated files: what they hold is the service's, and so of an account.
        self._generated: set[int] = set()

    def hidden(self, name: bytes) -> LookupResult | None:
        """Return the hidden directory, if it is called so."""
        return LookupResult(self._reports.top, _NAME_VALID_S) if name == NAME and self._reports is not None else None

    def find(self, parent: ControlDir, name: bytes, ctx: RequestContext) -> LookupResult:
        """Return what is called so in a private directory. Raises NoSuchEntry, FUSEError."""
        self.check(ctx)
        if self._reports is None:
            raise errors.NoSuchEntry("no such report")
        return self._reports.lookup(parent, name)

    def contents(self, directory: ControlDir) -> DirSnapshot:
        """Return what a private directory lists."""
        if self._reports is None:
            raise errors.NoSuchEntry("no such report")
        return self._reports.contents(directory)

    def check(self, ctx: RequestContext) -> None:
        """Refuse all users except the owner and root. The kernel does so too, by the permissions."""
        if ctx.uid not in (0, self._uid):
            raise FUSEError(errno.EACCES)

    def attributes(self, node: ControlDir | ControlFile, number: int, valid_s: float) -> EntryAttributes:
        """Return what `stat` shows. `valid_s`: the entry timeout; the attributes of a report are not cached."""
        attributes = EntryAttributes()
        attributes.st_ino = number
        attributes.st_uid, attributes.st_gid = self._uid, self._gid
        attributes.st_nlink = 1
        attributes.st_blksize = _BLOCK_SIZE
        attributes.entry_timeout, attributes.attr_timeout = valid_s, 0.0
        time_ns = node.entry.mtime_ns
        if isinstance(node, ControlDir):
            attributes.st_mode = stat.S_IFDIR | 0o700
        else:
            attributes.st_mode = stat.S_IFREG | 0o600
            attributes.st_size = size = self._size(node, number)
            attributes.st_blocks = (size + 511) >> 9
            time_ns = time.time_ns()
        attributes.st_atime_ns = attributes.st_mtime_ns = time_ns
        # Not now: by it tar sees whether a file changes while it is read.
        attributes.st_ctime_ns = node.entry.mtime_ns
        return attributes

    def _size(self, report: ControlFile, number: int) -> int:
        for its_number, held in reversed(self._open.values()):
            if its_number == number:
                return len(held)
        make = self._generators.get(report.what)
        return len(make()) if make is not None else 0

    async def make(self, report: ControlFile) -> bytes:
        """Return what is in a report now, or carry out an order and return the answer."""
        if (maker := self._generators.get(report.what)) is not None:
            return maker()
        if (order := self._commands.get(report.what)) is not None:
            return await order(report.about)
        raise errors.NoSuchEntry("no such report")

    def opened(self, handle: int, number: int, made: bytes) -> FileInfo:
        """Keep what was made for a handle."""
        self._open[handle] = (number, made)
        # Nothing of it stays in the kernel: the next one who opens it sees what is there then.
        return FileInfo(fh=handle, direct_io=True, keep_cache=False)

    def generated(self, handle: int, number: int, made: bytes) -> FileInfo:
        """Keep what is in a generated file for a handle: other contents have another inode, so the kernel keeps it."""
        self._open[handle] = (number, made)
        self._generated.add(handle)
        return FileInfo(fh=handle, keep_cache=True)

    def end_generated(self) -> None:
        """Let reads of all open generated files fail: they may be another account's (docs/semantics.md 6.3)."""
        for handle in self._generated:
            self._open.pop(handle, None)
        self._generated.clear()

    def number_of(self, handle: int) -> int:
        """Return the inode's number that a handle is of; 0 for one that is not of these."""
        return self._open[handle][0] if handle in self._open else 0

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Return part of what a handle holds. Raises Superseded where it was another account's."""
        if handle not in self._open:
            raise errors.Superseded("it came with other keys")
        return self._open[handle][1][offset : offset + size]

    def close(self, handle: int) -> None:
        """Forget what a handle held, if it was one of these."""
        self._open.pop(handle, None)
        self._generated.discard(handle)
