"""Opens the cache directory, after a check that it is one (docs/semantics.md 6.2).

A cache is a directory that did not exist or was empty at its first use. It carries a mark since then: the file
CACHEDIR.TAG of https://bford.info/cachedir, which backup programs honour, with a line of ours in it. Any other
directory is refused before anything in it is touched: to make it private would lock out the programs that share it.

Links are followed once, when a mount starts, and only links of this user or of root; what is opened later follows
none (`links=False`). So a link that appears under a running mount costs its cache, and nothing else.
Everything here blocks.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable

from artifactfs.errors import ExitCode, UserError
from artifactfs.util.escaping import shell_word
from artifactfs.util.path_walk import DIRECTORY, ForeignLink, open_path

_TAG = "CACHEDIR.TAG"
_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n"
_OURS = b"# This is the content cache of artifactfs.\n"
_MARK = _SIGNATURE + _OURS + b"# Backups may leave it out; `artifactfs cache clear` empties it.\n"
# A mark may have been written to by others; no more than this of it is looked at.
_MOST_BYTES = 4096
# What earlier versions left, which had no mark: the trees of blocks, of whatever format, and what is in one.
_TREE = re.compile(r"blocks-[0-9]+")
_IN_TREE = re.compile(r"usage|[0-9a-f]{2}|\..*")
# What is beside them (metadata/metadata_file.py, pins.py); the mark may be missing since the disk was full.
_BESIDE = re.compile(r"metadata-[0-9]+\.(?:lock|sqlite(?:-wal|-shm|-journal)?)|pins\.json|\.pins\.json\.[0-9a-f]+")
# An ext file system that was made for a cache has this in its root.
_LOST_AND_FOUND = "lost+found"
# What to type where the directory that was given has no place for another.
_OF_OWN_HOME = "~/.cache/artifactfs-2"
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ForeignDirectory(UserError):
    """A directory that is no cache of this user's; `instead`: one that could become it, in the words of a shell."""

    def __init__(self, why: str, instead: str) -> None:
        super().__init__(ExitCode.CACHE_REFUSED, why, f"give a directory of its own, as in --cache-dir {instead}")
        self.instead = instead


class Directory:
    """An open directory; closed when it is used no more. `path`: where it was found, without links."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)  # still there when the interpreter ends


def find(path: str, *, links: bool = True) -> Directory:
    """Open the cache directory at a path, and change nothing. Raises OSError, and ForeignDirectory."""
    directory = _open(path, links=links, make=False)
    _is_marked(directory, path)
    return directory


def claim(path: str, *, links: bool = True) -> Directory:
    """Open the cache directory at a path: made where there is none, private, and marked.

    Several processes may do it at once. Raises OSError, and ForeignDirectory.
    """
    directory = _open(path, links=links, make=True)
    marked = _is_marked(directory, path)
    if stat.S_IMODE(os.fstat(directory.fd).st_mode) & 0o077:
        os.fchmod(directory.fd, 0o700)
    if not marked:
        # A disk that is full now may not be later. Until then nothing is kept, and the directory can still be claimed.
        with contextlib.suppress(OSError):
            _mark(directory.fd)
    return directory


def subdirectory(name: str, within: int, *, make: bool = False) -> int:
    """Open a directory of the cache's own below another, no link followed; returns its descriptor. Raises OSError.

    `make`: where it is missing, or something else has its name, it is made.
    """
    try:
        return os.open(name, _LIST, dir_fd=within)
    except OSError:
        if not make:
            raise
    try:
        _make(name, within)
    except FileExistsError:
        # Another process has made it in this moment; or it is a file or a link, in the place of what is ours.
        with contextlib.suppress(IsADirectoryError, PermissionError):
            os.unlink(name, dir_fd=within)
            _make(name, within)
    return os.open(name, _LIST, dir_fd=within)


def _open(path: str, *, links: bool, make: bool) -> Directory:
    try:
        return Directory(*open_path(os.path.abspath(path), _LIST, links=links, make=_make if make else None))
    except ForeignLink as error:
        fact = f"the cache directory is behind a link of another user ({error.filename})"
        raise ForeignDirectory(fact, _OF_OWN_HOME) from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        if links and os.path.exists(path):
            raise ForeignDirectory(f"the cache directory {path} is no directory", _OF_OWN_HOME) from None
        raise NotADirectoryError(errno.ENOTDIR, f"{error.filename} is no directory") from None


def _make(name: str, within: int) -> None:
    """Make a directory that is 0700 whatever the umask."""
    os.mkdir(name, 0o700, dir_fd=within)
    if os.stat(name, dir_fd=within, follow_symlinks=False).st_mode & 0o700 == 0o700:
        return
    made = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
    try:
        # fchmod takes no such descriptor, and another cannot be had of a directory without these bits.
        os.chmod(f"/proc/self/fd/{made}", 0o700)
    finally:
        os.close(made)


def _is_marked(directory: Directory, path: str) -> bool:
    """Whether a directory is marked as our cache; if it is not, it could be. Raises ForeignDirectory."""
    found = os.fstat(directory.fd)
    if found.st_uid != os.geteuid():
        # The likes of /tmp have a place for others.
        has_place = found.st_uid == 0 and os.access(path, os.W_OK | os.X_OK)
        instead = shell_word(os.path.join(path, f"artifactfs-{os.geteuid()}")) if has_place else _OF_OWN_HOME
        raise ForeignDirectory(f"the cache directory {path} belongs to another user", instead)
    tag = _read_tag(directory.fd)
    if not _is_ours(tag) and (stranger := _stranger(directory.fd, tag)) is not None:
        # Another mount of ours may just have made it a cache, which begins with the mark.
        tag = _read_tag(directory.fd)
        if not _is_ours(tag):
            raise ForeignDirectory(
                f"{path} is no cache of artifactfs, since it holds other files ({stranger})", _below(path)
            )
    # A user's own group is mostly that user alone, and a umask of 002 lets it write.
    others = stat.S_IWOTH | stat.S_ISVTX | (stat.S_IWGRP if found.st_gid != os.getegid() else 0)
    if not _is_ours(tag) and found.st_mode & others:
        raise ForeignDirectory(f"{path} is no cache of artifactfs, since other users may write to it", _below(path))
    return _is_ours(tag)


def _below(path: str) -> str:
    return shell_word(os.path.join(path, "artifactfs"))


def _read_tag(fd: int) -> bytes | None:
    """Return how the tag begins; empty without one, None if it is no file, or another user's."""
    try:
        tag = os.open(_TAG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    try:
        found = os.fstat(tag)
        trusted = stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid())
        return os.pread(tag, _MOST_BYTES, 0) if trusted else None
    finally:
        os.close(tag)


def _is_ours(tag: bytes | None) -> bool:
    return tag is not None and tag.startswith(_SIGNATURE) and _OURS in tag


def _stranger(fd: int, tag: bytes | None) -> str | None:
    """Return the name of something in a directory without a mark that is not ours, as it may be shown; else None."""
    has_tree = False
    stranger: str | None = None
    listed = os.open(".", _LIST, dir_fd=fd)
    try:
        with os.scandir(listed) as entries:
            for entry in entries:
                if _TREE.fullmatch(entry.name) and _is_tree(entry.name, listed):
                    has_tree = True
                elif entry.name not in (_TAG, _LOST_AND_FOUND) and not _is_beside(entry):
                    stranger = ascii(entry.name)
    finally:
        os.close(listed)
    # A mark that a crash cut short, or, beside our blocks, one that was damaged. The signature alone may be another's.
    cut = tag is not None and _MARK.startswith(tag) and tag.strip() != _SIGNATURE.strip()
    if stranger is None and not cut and (tag is None or not has_tree):
        stranger = ascii(_TAG)
    return stranger


def _is_beside(entry: os.DirEntry[str]) -> bool:
    if not _BESIDE.fullmatch(entry.name):
        return False
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _is_tree(name: str, within: int) -> bool:
    """Whether a directory is what an earlier version kept its blocks in."""
    try:
        tree = os.open(name, _LIST, dir_fd=within)
    except OSError:
        return False
    try:
        ours = os.fstat(tree).st_uid == os.geteuid()
        return ours and all(_IN_TREE.fullmatch(inner) for inner in os.listdir(tree))
    finally:
        os.close(tree)


def _mark(fd: int) -> None:
    """Write the mark. All processes write the same, so several may at once."""
    tag = os.open(_TAG, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
    try:
        os.fchmod(tag, 0o600)
        os.pwrite(tag, _MARK, 0)
        os.ftruncate(tag, len(_MARK))
    finally:
        os.close(tag)
