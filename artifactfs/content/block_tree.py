"""The files below a tree of blocks: found, opened and deleted relative to its open directory, no link followed.

Files with other names, or of another user, are neither counted nor touched. A temporary file is locked by its writer,
so one without a lock was left by a killed writer. It is deleted under the lock of the tree's count, under which writers
create and lock theirs.

Everything here blocks, and raises OSError for failures of the disk.
"""

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import msgspec

from artifactfs.content import block_format, cache_dir
from artifactfs.content.cache_places import DIGEST_BYTES

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UPPER, _LOWER = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{30}")
# The name holds the final size of the file on disk.
_ASIDE = re.compile(r"\.[0-9a-f]+-[0-9]+-([0-9a-f]{1,16})")
_DISK_PAGE = 4096
# A directory of at most this size has some thousand names. Arbitrary, as is what counts as few.
SMALL_BYTES, _FEW_NAMES = 64 << 10, 4


class File(NamedTuple):
    """A file of a tree, `size_bytes` on disk. Sorts by the time of its last use."""

    used_at: float
    size_bytes: int
    upper: str
    lower: str
    name: str

    @property
    def is_aside(self) -> bool:
        """Whether it is being written; it is as large as it will be then."""
        return self.name.startswith(".")

    @property
    def key(self) -> bytes:
        """The version that its blocks are of."""
        return bytes.fromhex(self.upper + self.lower)


class Usage(msgspec.Struct, frozen=True):
    """The contents of the cache: bytes on disk, blocks, and the files that they belong to."""

    size_bytes: int
    blocks: int
    files: int


class Cleared(Usage, frozen=True):
    """What was deleted, and the number of blocks that could not be."""

    left_blocks: int = 0


def total(files: Iterable[File]) -> Usage:
    """Return the sum of files."""
    found = list(files)
    count = sum(block_format.count_in(file.name) for file in found)
    return Usage(sum(file.size_bytes for file in found), count, len({file.key for file in found}))


def on_disk(size_bytes: int) -> int:
    """Return the bytes on disk of a file of this size."""
    return -(-size_bytes // _DISK_PAGE) * _DISK_PAGE


@contextlib.contextmanager
def version(tree: int, key: bytes, *, make: bool = False) -> Iterator[int]:
    """Open the directory of a version's files; `make` it where it is missing."""
    name = key[:DIGEST_BYTES].hex()
    if not make:
        # Mostly there is none, which one call says in place of three. Nothing is read behind a link: see below.
        os.stat(f"{name[:2]}/{name[2:]}", dir_fd=tree)
    upper = cache_dir.subdirectory(name[:2], tree, make=make)
    try:
        lower = cache_dir.subdirectory(name[2:], upper, make=make)
    finally:
        os.close(upper)
    try:
        yield lower
    finally:
        os.close(lower)


def present(directory: int, names: Collection[str]) -> Collection[str]:
    """Return which of some names are in the directory of a version; all of them where that costs more to find out.

    One call that lists a small directory costs less than one for each of many names: it is not the calls that cost, but
    the interpreter's lock, which each hands over. Raises OSError.
    """
    if len(names) <= _FEW_NAMES or os.fstat(directory).st_size > SMALL_BYTES:
        return names
    return set(os.listdir(directory)).intersection(names)


def set_aside(directory: int, name: str) -> int:
    """Make a file to be written, and lock it; returns its descriptor. Call under the lock of the tree's count."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    return fd


def files(tree: int, *, asides: bool = False) -> Iterator[File]:
    """Yield every file with blocks; with `asides` those that are being written, too, and delete what killed ones left.

    For `asides`, call under the lock of the tree's count.
    """
    for upper, lower, directory in _versions(tree):
        for name in os.listdir(directory):
            claimed = _ASIDE.fullmatch(name)
            if not (claimed and asides) and not block_format.is_name(name):
                continue
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue  # evicted, or written to its end, in this moment
            if stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            file = File(found.st_mtime, on_disk(found.st_size), upper, lower, name)
            if claimed and _is_being_written(name, directory):
                yield file._replace(size_bytes=max(file.size_bytes, int(claimed[1], 16)))
            elif not claimed or not unlink(tree, file):
                yield file


def has_asides(tree: int) -> bool:
    """Whether anything is being written, or was left by a writer that was killed."""
    return any(_ASIDE.fullmatch(name) for *_, directory in _versions(tree) for name in os.listdir(directory))


def _is_being_written(name: str, directory: int) -> bool:
    """Whether a file aside has a writer that lives."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def unlink(tree: int, file: File) -> bool:
    """Delete a file, and the directory that it leaves empty. Returns whether it is gone."""
    try:
        with version(tree, file.key) as directory:
            os.unlink(file.name, dir_fd=directory)
        upper = cache_dir.subdirectory(file.upper, tree)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):  # goes only when it is empty
            os.rmdir(file.lower, dir_fd=upper)
    finally:
        os.close(upper)
    return True


def _versions(tree: int) -> Iterator[tuple[str, str, int]]:
    """Yield the directory of each version: its two names, and a descriptor that is open until the next one."""
    for upper, above in _directories(tree, _UPPER):
        for lower, directory in _directories(above, _LOWER):
            yield upper, lower, directory


def _directories(within: int, form: re.Pattern[str]) -> Iterator[tuple[str, int]]:
    """Yield directories whose names are of one form, each with a descriptor that is open until the next one."""
    # A descriptor of its own: threads that list one at once would share its position.
    listed = os.open(".", _LIST, dir_fd=within)
    try:
        names = os.listdir(listed)
    finally:
        os.close(listed)
    for name in names:
        if form.fullmatch(name):
            try:
                fd = cache_dir.subdirectory(name, within)
            except OSError:
                continue  # deleted in this moment, or no directory
            try:
                yield name, fd
            finally:
                os.close(fd)
