"""The limit of the binding: a pyfuse3 mount that answers everything from memory.

Usage: bare.py MOUNTPOINT DIRECTORIES FILES MEBIBYTES. `/tree/dN/fM` are DIRECTORIES directories of FILES files each;
`/big` has MEBIBYTES of content. No figure of artifactfs can be better than the figure of this mount.
"""

import stat
import sys
from collections.abc import Iterator

import pyfuse3
import trio

ROOT, TREE, BIG_INODE, FIRST_DIRECTORY, FIRST_FILE = 1, 2, 3, 10, 10_000_000
CHUNK = bytes(range(256)) * 4096  # 1 MiB


class Bare(pyfuse3.Operations):
    """See the module."""

    def __init__(self, directories: int, files: int, big_bytes: int) -> None:
        super().__init__()
        self._directories = directories
        self._files = files
        self._big_bytes = big_bytes

    def _entry(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        is_dir = inode in (ROOT, TREE) or FIRST_DIRECTORY <= inode < FIRST_FILE
        entry.st_ino, entry.st_nlink = pyfuse3.InodeT(inode), 1
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o555 if is_dir else stat.S_IFREG | 0o444)
        entry.st_size = 0 if is_dir else self._big_bytes if inode == BIG_INODE else 123
        entry.entry_timeout = entry.attr_timeout = 3600
        return entry

    def _names(self, inode: int) -> Iterator[tuple[bytes, int]]:
        if inode == ROOT:
            yield from ((b"tree", TREE), (b"big", BIG_INODE))
        elif inode == TREE:
            yield from ((b"d%d" % number, FIRST_DIRECTORY + number) for number in range(self._directories))
        else:
            first = FIRST_FILE + (inode - FIRST_DIRECTORY) * self._files
            yield from ((b"f%d" % number, first + number) for number in range(self._files))

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(dict(self._names(parent_inode)).get(name, BIG_INODE))

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for position, (name, inode) in enumerate(list(self._names(fh))[start_id:], start_id):
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), self._entry(inode), position + 1):
                return

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=False)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        start = off % len(CHUNK)
        count = min(size, self._big_bytes - off)
        return (CHUNK + CHUNK)[start : start + count] if count <= len(CHUNK) else CHUNK * (count // len(CHUNK))


def main() -> None:
    """Mount, and serve until the unmount."""
    directories, files, mebibytes = map(int, sys.argv[2:])
    operations = Bare(directories, files, mebibytes << 20)
    pyfuse3.init(operations, sys.argv[1], {*pyfuse3.default_options, "ro", "fsname=bare"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
