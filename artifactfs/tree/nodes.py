"""The kinds of place in the tree, their attributes, and their inode numbers.

    Fixed       a directory of ours: the root, /runs
    Directory   a run's root, or a directory of artifacts below it
    File        an artifact

An inode number stands for site, run, path, kind and version (semantics 2.4): it is a digest of them, so it is
the same after a remount and asks nothing of a disk. What a version is, is decided here and nowhere else.
"""

import hashlib
from collections.abc import Callable

import msgspec

ROOT_NUMBER = 1


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A name in a directory, with what `stat` shows of it.

    `number`: the inode's. `size_bytes` None: unknown (always for directories). `mtime_ns`: since the epoch.
    `slash`: the server wrote the directory with a slash at its end.
    """

    name: bytes
    is_dir: bool
    number: int
    mtime_ns: int
    size_bytes: int | None = None
    slash: bool = True


class Fixed(msgspec.Struct, frozen=True):
    """A directory of ours."""

    entry: Entry
    parent_number: int


class Directory(msgspec.Struct, frozen=True, gc=False):
    """A directory of artifacts. `path`: from the run's root, without slashes at its ends; "" is the root."""

    run_id: int
    path: str
    entry: Entry
    parent_number: int


class File(msgspec.Struct, frozen=True, gc=False):
    """An artifact in its directory."""

    directory: Directory
    entry: Entry

    @property
    def path(self) -> str:
        """The path from the run's root."""
        return join(self.directory.path, self.entry.name)


Node = Fixed | Directory | File


def join(directory: str, name: bytes) -> str:
    """Return the path of a name in a directory; both from the run's root."""
    return f"{directory}/{name.decode()}" if directory else name.decode()


def child(directory: Directory, entry: Entry) -> Directory | File:
    """Return the place that an entry of a directory stands for."""
    if entry.is_dir:
        return Directory(directory.run_id, join(directory.path, entry.name), entry, directory.entry.number)
    return File(directory, entry)


def completes(old: Entry, new: Entry) -> bool:
    """Whether `new` is the same version as `old`, or the same with more or less known of it (semantics 2.4)."""
    if old.is_dir or new.is_dir:
        return old.is_dir == new.is_dir
    return old.size_bytes == new.size_bytes or old.size_bytes is None or new.size_bytes is None


class Numbering:
    """Inode numbers for one site. 63 bits: some readers take st_ino for signed."""

    def __init__(self, site: str) -> None:
        self._site = site.encode()

    def fixed(self, name: str) -> int:
        """Return the number of a directory of ours."""
        return _number(hashlib.blake2b(b"%b\0%b" % (self._site, name.encode()), digest_size=8))

    def run(self, run_id: int) -> int:
        """Return the number of a run's root."""
        return _number(hashlib.blake2b(self._prefix(run_id, "") + b"\0d", digest_size=8))

    def children(self, run_id: int, directory: str) -> "Callable[[bytes, bool, int | None], int]":
        """Return a function (name, is_dir, size_bytes) -> number for the names in one directory."""
        start = hashlib.blake2b(self._prefix(run_id, directory) + b"/", digest_size=8)

        def number(name: bytes, is_dir: bool, size_bytes: int | None) -> int:
            digest = start.copy()
            # A name holds no NUL, so no two (name, kind, size) meet.
            digest.update(name + (b"\0d" if is_dir else b"\0f%d" % size_bytes if size_bytes is not None else b"\0f?"))
            return _number(digest)

        return number

    def _prefix(self, run_id: int, directory: str) -> bytes:
        return b"%b\0%d\0%b" % (self._site, run_id, b"/" + directory.encode() if directory else b"")


def _number(digest: "hashlib.blake2b") -> int:
    number = int.from_bytes(digest.digest(), "big") >> 1
    # 0 is "no inode" and 1 the root of a FUSE mount.
    return number if number > ROOT_NUMBER else number + 2
