"""The directory that a download fills: what is there already, files that are not finished, and finished ones.

An unfinished file lies beside its place as `.NAME.VERSION.part`. VERSION is a digest of what names the version, so that
bytes of two versions never meet in one file. Hard: names are the server's, and another process may put a link where a
directory was. So each directory is opened from the root on without following a link, and used by its descriptor. And
a file system that ignores case has one place for names that differ in it alone: the second of them is refused.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from artifactfs.domain import NAME_MAX_BYTES
from artifactfs.errors import ArtifactfsError, ExitCode, UserError
from artifactfs.util import path_walk

_SUFFIX = ".part"
_DIGEST_BYTES = 8
_PART = re.compile(rf"\.(.*)\.[0-9a-f]{{{2 * _DIGEST_BYTES}}}{re.escape(_SUFFIX)}", re.DOTALL)
_NEW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}
# The steps in which file systems keep times, in ns: most; NTFS and SMB; exFAT; old ones; FAT.
_GRAINS_NS = (1, 100, 10**7, 10**9, 2 * 10**9)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Obstacle(ArtifactfsError):
    """A file cannot be written at its place. `str()` is a sentence for the user."""


class Target:
    """See the module. `directory` is made if it is missing. Its methods block; raises UserError, Obstacle.

    A place below it is a sequence of names.
    """

    def __init__(self, directory: str) -> None:
        self._named = directory
        self._known: dict[tuple[str, ...], dict[str, set[str]]] = {}
        # The names in directories, composed, as far as they were needed; and the directories that have their own.
        self._names: dict[tuple[str, ...], set[str]] = {}
        self._exact: set[tuple[str, ...]] = {()}
        cause: str | None = "it is read-only, or not yours to write"
        self._is_new = not os.path.lexists(directory)
        try:
            os.makedirs(directory, exist_ok=True)
            # Links on the way to it are the caller's own choice, those below it are not.
            self._top = os.path.realpath(directory, strict=True)
            # Once for all files, and before the first request.
            if os.access(self._top, os.W_OK | os.X_OK):
                return
        except FileExistsError:
            cause = "it is no directory"
        except OSError as error:
            cause = error.strerror
        except RecursionError:  # of makedirs
            cause = "it is below too many directories"
        raise UserError(ExitCode.NOT_WRITABLE, f"cannot write to {directory}: {cause}", "give another directory")

    def forget(self) -> None:
        """Remove the directory if it was made for nothing."""
        if self._is_new:
            with contextlib.suppress(OSError):
                os.rmdir(self._top)

    def path(self, place: Sequence[str]) -> str:
        """Return a place as it is shown."""
        return os.path.join(self._named, *place)

    @contextmanager
    def directory(self, place: Sequence[str]) -> Iterator[int]:
        """Yield the descriptor of a directory, which is made if it is missing."""
        with self._obstacles(place):
            path, flags = os.path.join(self._top, *place), os.O_DIRECTORY | os.O_CLOEXEC
            made: list[str] = []

            def make(name: str, at: int) -> None:
                os.mkdir(name, dir_fd=at)
                made.append(name)

            fd, _ = path_walk.open_path(path, flags, links=False, make=make)
        # What was made has its very name: no directory of thousands is listed for each of them.
        if made and list(place[-len(made) :]) == made:
            for depth in range(len(place) - len(made), len(place)):
                self._names.setdefault(tuple(place[:depth]), set()).add(_composed(place[depth]))
        try:
            if tuple(place) not in self._exact:
                with self.directory(place[:-1]) as above:
                    self._see_exact(above, place)
                self._exact.add(tuple(place))
            yield fd
        finally:
            os.close(fd)

    def has(self, directory: int, place: Sequence[str], size_bytes: int | None, mtime_ns: int) -> bool:
        """Whether a file of this size and time is there; not where the size is unknown.

        Raises Obstacle for what is no file, or has a name of ours.
        """
        name = place[-1]
        if _PART.fullmatch(name):
            raise Obstacle(f"{self.path(place)}: this is a name for files that are not finished, so it is left out")
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._obstacle(error, place) from None
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
            raise Obstacle(f"{self.path(place)} is there, and {kind}; move it away")
        self._see_exact(directory, place)
        is_same_time = any(found.st_mtime_ns == mtime_ns // grain * grain for grain in _GRAINS_NS)
        return found.st_size == size_bytes and is_same_time

    @contextmanager
    def unfinished(self, directory: int, place: Sequence[str], version: bytes | None) -> Iterator["Unfinished"]:
        """Yield the unfinished file of a version, with what was written before; `version` None: with nothing.

        Files of other versions of the same place are deleted.
        """
        with self._obstacles(place):
            # With the name: those of two long names may begin alike.
            named = os.fsencode(place[-1]) + b"\0" + (version or b"")
            end = f".{hashlib.blake2b(named, digest_size=_DIGEST_BYTES).hexdigest()}{_SUFFIX}"
            name = os.fsdecode(os.fsencode(place[-1])[: NAME_MAX_BYTES - 1 - len(end)])
            part = f".{name}{end}"
            fd = os.open(part, _NEW, 0o666, dir_fd=directory)
            try:
                self._claim(fd, directory, part, place)
                known = self._leftovers(directory, place[:-1])
                if name == place[-1]:
                    for other in known.get(name, set()) - {part}:
                        with contextlib.suppress(FileNotFoundError):  # another process has finished it
                            os.unlink(other, dir_fd=directory)
                    known[name] = {part}
                if version is None:
                    os.ftruncate(fd, 0)
                see_free = functools.partial(self._see_free, directory, place)
                yield Unfinished(fd, directory, part, place[-1], os.fstat(fd).st_size, see_free)
                known.pop(name, None)
            finally:
                os.close(fd)

    def _see_free(self, directory: int, place: Sequence[str]) -> None:
        """See that a place is free, or has a file of that very name. Raises Obstacle, OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.stat(place[-1], dir_fd=directory, follow_symlinks=False)
            self._see_exact(directory, place)

    def _see_exact(self, directory: int, place: Sequence[str]) -> None:
        """See that what was found by a name has that name, and not one that is the same to this file system.

        Composed or not is no difference: some file systems keep names in one of the two forms. Raises Obstacle.
        """
        names, name = self._names.setdefault(tuple(place[:-1]), set()), _composed(place[-1])
        with self._obstacles(place):
            if name not in names:
                names.update(map(_composed, os.listdir(directory)))
        if name not in names:
            fact = "to this file system its name is that of something else that is there"
            raise Obstacle(f"{self.path(place)}: {fact}; give a directory on another one")

    def _claim(self, fd: int, directory: int, part: str, place: Sequence[str]) -> None:
        """See that an open unfinished file is a file, and no other process's."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Obstacle(f"{self.path((*place[:-1], part))} is there, and no file; move it away")
        try:
            self._lock(fd)
            # Its other writer may have finished it after it was opened here: it has its own name then.
            is_there = os.path.samestat(os.stat(part, dir_fd=directory, follow_symlinks=False), found)
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        if not is_there:
            raise Obstacle(f"{self.path(place)}: another download is writing it")

    @staticmethod
    def _lock(fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks; a lock only keeps two calls at once from the same work.
            if error.errno not in _NO_LOCKS:
                raise

    def _leftovers(self, directory: int, place: Sequence[str]) -> dict[str, set[str]]:
        """Return the unfinished files in a directory, each set by the name of the file."""
        if (known := self._known.get(tuple(place))) is None:
            known = self._known[tuple(place)] = {}
            for match in filter(None, map(_PART.fullmatch, os.listdir(directory))):
                known.setdefault(match[1], set()).add(match[0])
        return known

    @contextmanager
    def _obstacles(self, place: Sequence[str]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._obstacle(error, place) from None

    def _obstacle(self, error: OSError, place: Sequence[str]) -> ArtifactfsError:
        if error.errno in _NO_ROOM:
            fact = f"there is no room left in {self._named} ({error.strerror})"
            return UserError(ExitCode.INCOMPLETE, fact, "free some, and call again to go on")
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            at = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else self.path(place)
            return Obstacle(f"{self.path(place)}: {at} is no directory, or a link, which is not followed; move it away")
        return Obstacle(f"{self.path(place)}: {error.strerror}")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class Unfinished:
    """A file that is written to its end, with `size_bytes` so far. Its methods block and raise OSError."""

    def __init__(
        self, fd: int, directory: int, part: str, name: str, size_bytes: int, see_free: Callable[[], None]
    ) -> None:
        self._see_free = see_free
        self._fd = fd
        self._directory = directory
        self._part = part
        self._name = name
        self.size_bytes = size_bytes

    def read(self, offset: int, count: int) -> bytes:
        """Return what was written before."""
        return os.pread(self._fd, count, offset)

    def cut(self) -> None:
        """Begin again."""
        os.ftruncate(self._fd, 0)
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, self.size_bytes)
            self.size_bytes += count
            view = view[count:]

    def finish(self, mtime_ns: int) -> None:
        """Give the file its time and its name; what had the name before is replaced. Raises Obstacle."""
        self._see_free()
        os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        os.rename(self._part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
