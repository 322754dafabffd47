"""The kinds of place in the tree, their attributes, and their inode numbers.

    Fixed       a directory of ours: the root, /runs, /projects, /names
    Shelf       a project's runs, in /projects or in /names
    Link        a run in a shelf
    Directory   a run's root, or a directory of artifacts below it
    File        an artifact
    Private     a directory that is the owner's and root's alone: /.artifactfs
    Report      a file in there, made anew each time that it is opened

An inode number stands for site, run, path, kind and version (semantics 2.4): it is a digest of them, so it is
the same after a remount and asks nothing of a disk. What a version is, is decided here and nowhere else.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec

ROOT_NUMBER = 1
_NUMBERS = (1 << 60) - 1


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A name in a directory, with what `stat` shows of it.

    `number`: the inode's. `size_bytes` None: unknown (always for directories). `mtime_ns`: since the epoch.
    `created_ns`: a file's own time, since the epoch, where the service gives it: part of its version, and mostly what
    `mtime_ns` is.
    """

    name: bytes
    is_dir: bool
    number: int
    mtime_ns: int
    size_bytes: int | None = None
    created_ns: int | None = None


class StaticDir(msgspec.Struct, frozen=True):
    """A directory of ours."""

    entry: Entry
    parent_number: int


class ProjectDir(msgspec.Struct, frozen=True, gc=False):
    """A directory of ours with links to a project's runs: by their ids, or by their names."""

    project_id: int
    by_name: bool
    entry: Entry
    parent_number: int


class Symlink(msgspec.Struct, frozen=True, gc=False):
    """A symbolic link in a shelf. `target`: a path relative to the shelf."""

    target: bytes
    entry: Entry
    parent_number: int


class ArtifactDir(msgspec.Struct, frozen=True, gc=False):
    """A directory of artifacts. `path`: from the run's root, without slashes at its ends; "" is the root."""

    run_id: int
    path: str
    entry: Entry
    parent_number: int


class ArtifactFile(msgspec.Struct, frozen=True, gc=False):
    """An artifact in its directory."""

    directory: ArtifactDir
    entry: Entry

    @property
    def path(self) -> str:
        """The path from the run's root."""
        return join(self.directory.path, self.entry.name)


class ControlDir(msgspec.Struct, frozen=True, gc=False):
    """A directory of ours that is never listed, and that nobody enters but the mount's owner and root."""

    entry: Entry
    parent_number: int


class ControlFile(msgspec.Struct, frozen=True, gc=False):
    """A file in a Private: what the mount has to say. `about`: the inode number that it is about, 0 for none."""

    what: str
    about: int
    entry: Entry
    parent_number: int


Node = StaticDir | ProjectDir | Symlink | ArtifactDir | ArtifactFile | ControlDir | ControlFile
# What a directory's contents can be asked of.
AnyDirectory = StaticDir | ProjectDir | ArtifactDir | ControlDir


class LookupResult(msgspec.Struct, frozen=True, gc=False):
    """A place, and for how many seconds its name may be believed."""

    node: Node
    valid_s: float


class DirSnapshot(msgspec.Struct, frozen=True):
    """What a directory holds, frozen: entries in order, and how to make a place of each.

    `left_s()` is for how many more seconds the names may be believed.
    """

    entries: tuple[Entry, ...]
    node_of: Callable[[Entry], Node]
    left_s: Callable[[], float]


def join(directory: str, name: bytes) -> str:
    """Return the path of a name in a directory; both from the run's root."""
    return f"{directory}/{name.decode()}" if directory else name.decode()


def child(directory: ArtifactDir, entry: Entry) -> ArtifactDir | ArtifactFile:
    """Return the place that an entry of a directory stands for."""
    if entry.is_dir:
        return ArtifactDir(directory.run_id, join(directory.path, entry.name), entry, directory.entry.number)
    return ArtifactFile(directory, entry)


def mount_path(node: Node) -> str:
    """Return where a place is, from the mount point; of a link, its name."""
    if isinstance(node, ArtifactDir):
        return f"runs/{node.run_id}" + (f"/{node.path}" if node.path else "")
    if isinstance(node, ArtifactFile):
        return f"runs/{node.directory.run_id}/{node.path}"
    if isinstance(node, ProjectDir):
        return ("names/" if node.by_name else "projects/") + node.entry.name.decode("utf-8", "replace")
    if isinstance(node, ControlFile | ControlDir):
        # A report that is about a place is in the directory of its order.
        order = f"{node.what}/" if isinstance(node, ControlFile) and node.about else ""
        above = "" if node.parent_number == ROOT_NUMBER else ".artifactfs/"
        return above + order + node.entry.name.decode()
    if isinstance(node, Symlink):
        return node.entry.name.decode("utf-8", "replace")
    return node.entry.name.decode()


def same_version(old: Entry, new: Entry) -> bool:
    """Whether `new` is the same version as `old`, or the same with more or less known of it (semantics 2.4)."""
    if old.is_dir or new.is_dir:
        return old.is_dir == new.is_dir
    same_size = old.size_bytes == new.size_bytes or old.size_bytes is None or new.size_bytes is None
    return same_size and (old.created_ns == new.created_ns or old.created_ns is None or new.created_ns is None)


class ChildNumber(Protocol):
    """See `InodeNumbers.children`."""

    def __call__(self, name: bytes, is_dir: bool, size_bytes: int | None, created_ns: int | None = None) -> int:
        """Return a number."""


class InodeNumbers:
    """Inode numbers for one site.

    60 bits: some readers take st_ino for signed, and CPython keeps these in 32 bytes, larger ones in 48.
    """

    def __init__(self, site: str) -> None:
        self._site = site.encode()

    def fixed(self, path: bytes) -> int:
        """Return the number of a directory or link of ours, by its path from the root, without a slash in front."""
        return _number(hashlib.blake2b(b"%b\0%b" % (self._site, path), digest_size=8))

    def run(self, run_id: int) -> int:
        """Return the number of a run's root."""
        return _number(hashlib.blake2b(self._prefix(run_id, "") + b"\0d", digest_size=8))

    def children(self, run_id: int, directory: str) -> "ChildNumber":
        """Return a function (name, is_dir, size_bytes, created_ns) -> number for the names in one directory.

        `created_ns` is given only for a file that was seen with the same size and another time: which of its times is
        known at first depends on the way that one comes to it, and must not make another number after a remount.
        """
        start = hashlib.blake2b(self._prefix(run_id, directory) + b"/", digest_size=8)

        def number(name: bytes, is_dir: bool, size_bytes: int | None, created_ns: int | None = None) -> int:
            digest = start.copy()
            # A name holds no NUL, so no two (name, kind, size, time) meet.
            digest.update(name + (b"\0d" if is_dir else b"\0f%d" % size_bytes if size_bytes is not None else b"\0f?"))
            if created_ns is not None:
                digest.update(b"\0%d" % created_ns)
            return _number(digest)

        return number

    def _prefix(self, run_id: int, directory: str) -> bytes:
        return b"%b\0%d\0%b" % (self._site, run_id, b"/" + directory.encode() if directory else b"")


def _number(digest: "hashlib.blake2b") -> int:
    # Not shifted: the result would keep the memory of what it was shifted from.
    number = int.from_bytes(digest.digest(), "big") & _NUMBERS
    # 0 is "no inode" and 1 the root of a FUSE mount.
    return number if number > ROOT_NUMBER else number + 2
