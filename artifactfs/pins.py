"""Owns the list of what a user keeps: runs, directories and files that no eviction takes from the cache.

It is the file `pins.json` of the cache directory, shared by all mounts of the user, and says nothing of contents. It is
replaced whole, under the lock of its directory. Nobody's list but the user's own counts: the file may be no link, nor
another user's, nor writable by others. One that cannot be read stays as it is, since it may be all that there is of a
long list: then nothing is kept, which is said once, and nothing can be added.

Everything here blocks; call it in a thread.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from artifactfs.errors import ExitCode, UserError
from artifactfs.util.path_walk import open_path
from artifactfs.util.replacing import replace_file

log = logging.getLogger(__name__)

_NAME = "pins.json"
_FORMAT = 1
# A pin has about 200 bytes, so this is more than a person makes.
_MAX_BYTES = 8 << 20
_DISK_PAGE = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Pin(msgspec.Struct, frozen=True):
    """One pin: all that is at and below `path` in a run; "" is the run.

    `site`: the API's URL. `account`: its name after "=", or a digest that stands for it. `pinned_at`: seconds since the
    epoch. `size_bytes`, `files`: of what was there when it was last listed. `is_settled`: its run was over when it was
    last fetched, so that what is in the cache is right for good.
    """

    site: str
    account: str
    run_id: int
    path: str
    pinned_at: float
    size_bytes: int = 0
    files: int = 0
    is_settled: bool = False

    @property
    def place(self) -> str:
        """The run and the path, as "<run id>/<path>"."""
        return f"{self.run_id}/{self.path}" if self.path else str(self.run_id)

    @property
    def owner(self) -> str:
        """The owner of its contents: site and account."""
        return f"{self.site}\0{self.account}"

    @property
    def needs_bytes(self) -> int:
        """Bytes on disk, about: each file ends within a page, and each group of blocks has a header."""
        return self.size_bytes + (self.size_bytes >> 10) + self.files * _DISK_PAGE

    def is_of(self, owner: str, place: str) -> bool:
        """Whether it is the pin of a place."""
        return self.place == place and self.owner == owner

    def covers(self, other: "Pin") -> bool:
        """Whether another pin is of the same place, or below it."""
        return self.owner == other.owner and (self.place == other.place or other.place.startswith(f"{self.place}/"))


def needs_bytes(pins: Iterable[Pin]) -> int:
    """Return the bytes on disk that pins need together: what is pinned twice counts once."""
    found = list(pins)
    return sum(pin.needs_bytes for pin in found if not any(other != pin and other.covers(pin) for other in found))


class _Content(msgspec.Struct, frozen=True):
    """The contents of the file."""

    format: int
    pins: tuple[Pin, ...]


class UnreadablePins(UserError):
    """The list of pins cannot be read, so it is not changed."""

    def __init__(self, path: str, why: str) -> None:
        fix = "repair it, or move it away: nothing is pinned then"
        super().__init__(ExitCode.CACHE_REFUSED, f"the list of pins {path} {why}", fix)


class UnchangedPins(UserError):
    """The list of pins cannot be changed."""

    def __init__(self, path: str, error: OSError) -> None:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free space there: `artifactfs cache clear`" if is_full else "see whether its directory can be written"
        super().__init__(ExitCode.CACHE_REFUSED, f"the list of pins {path} cannot be changed: {error.strerror}", fix)


class PinFile:
    """The pins of one cache directory, an absolute path without links. Safe for threads and processes."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, _NAME)
        # The file as it was read: device, inode, time, size.
        self._seen: tuple[int, ...] | None = None
        self._pins: tuple[Pin, ...] = ()
        self._places: frozenset[tuple[str, str]] = frozenset()
        # What was said of a list that cannot be read.
        self._said = ""

    def load(self) -> tuple[Pin, ...]:
        """Return the pins; read again only if the file is another. Where it cannot be read, which is logged, none."""
        try:
            self.read()
        except UnreadablePins as error:
            self._adopt(None, ())
            if (said := str(error)) != self._said:
                log.warning("%s; until then nothing is kept from eviction", said)
            self._said = said
        else:
            self._said = ""
        return self._pins

    def read(self) -> tuple[Pin, ...]:
        """Return the same. Raises UnreadablePins."""
        try:
            with self._opened() as directory:
                self._adopt(*self._read(directory))
        except (FileNotFoundError, NotADirectoryError):  # there is no cache, or a link in its place
            self._adopt(None, ())
        except OSError as error:
            raise UnreadablePins(self.path, f"cannot be read: {error.strerror}") from None
        return self._pins

    def covers(self, site: str, place: str) -> bool:
        """Whether "<run id>/<path>" at a site is pinned, by any account, as of the last `load`."""
        while (site, place) not in self._places:
            place, slash, _ = place.rpartition("/")
            if not slash:
                return False
        return True

    def has_run(self, run_id: int) -> bool:
        """Whether anything of a run is pinned, of any site, by any account."""
        return any(pin.run_id == run_id for pin in self.load())

    def add(self, pin: Pin) -> None:
        """Add a pin, in place of one of the same place. Raises UnreadablePins, UnchangedPins."""
        self._change(lambda pins: [*(each for each in pins if not each.is_of(pin.owner, pin.place)), pin])

    def remove(self, is_meant: Callable[[Pin], bool]) -> list[Pin]:
        """Remove pins; returns them. Raises UnreadablePins, UnchangedPins."""
        before = self._change(lambda pins: [each for each in pins if not is_meant(each)])
        return [each for each in before if is_meant(each)]

    def update(self, owner: str, place: str, **changes: object) -> None:
        """Change fields of the pin of a place, if there is one still. Raises UnreadablePins, UnchangedPins."""

        def changed(pin: Pin) -> Pin:
            return msgspec.structs.replace(pin, **changes) if pin.is_of(owner, place) else pin

        self._change(lambda pins: list(map(changed, pins)))

    def _change(self, change: Callable[[Sequence[Pin]], Sequence[Pin]]) -> tuple[Pin, ...]:
        """Replace the pins by others; returns those before."""
        try:
            return self._changed(change)
        except FileNotFoundError as error:
            if not change(()):
                return ()  # there is no cache yet
            raise UnchangedPins(self.path, error) from None
        except OSError as error:
            raise UnchangedPins(self.path, error) from None

    def _changed(self, change: Callable[[Sequence[Pin]], Sequence[Pin]]) -> tuple[Pin, ...]:
        with self._opened() as directory:
            # Not the file, which is another one after each change.
            fcntl.flock(directory, fcntl.LOCK_EX)
            for name in os.listdir(directory):
                if name.startswith(f".{_NAME}."):
                    os.unlink(name, dir_fd=directory)  # of a writer that was killed: one that lives has the lock
            try:
                _, before = self._read(directory)
            except FileNotFoundError:
                before = ()
            if not (after := tuple(change(before))) and before:
                # Needs no room: a full disk may be the reason to unpin.
                os.unlink(_NAME, dir_fd=directory)
            elif after != before:
                content = msgspec.json.encode(_Content(_FORMAT, after))
                replace_file(self.path, msgspec.json.format(content) + b"\n", 0o600)
        return before

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        directory, _ = open_path(self.directory, _DIRECTORY, links=False)
        try:
            yield directory
        finally:
            os.close(directory)

    def _read(self, directory: int) -> tuple[tuple[int, ...], tuple[Pin, ...]]:
        """Return what tells the file from another, and the pins in it. Raises UnreadablePins, OSError."""
        try:
            fd = os.open(_NAME, _FILE, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnreadablePins(self.path, "is a link") from None
            raise
        try:
            found = os.fstat(fd)
            seen = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
            if seen == self._seen:
                return seen, self._pins
            if not stat.S_ISREG(found.st_mode):
                raise UnreadablePins(self.path, "is no regular file")
            if found.st_uid != os.geteuid():
                raise UnreadablePins(self.path, "belongs to another user")
            if found.st_mode & 0o022:
                raise UnreadablePins(self.path, "can be written by others")
            text = os.pread(fd, _MAX_BYTES + 1, 0)
        finally:
            os.close(fd)
        try:
            content = msgspec.json.decode(text, type=_Content)
        except msgspec.DecodeError:
            raise UnreadablePins(self.path, "is damaged") from None
        if content.format != _FORMAT:
            raise UnreadablePins(self.path, "is of another version of artifactfs")
        return seen, content.pins

    def _adopt(self, seen: tuple[int, ...] | None, pins: tuple[Pin, ...]) -> None:
        if seen is None or seen != self._seen:
            self._seen, self._pins = seen, pins
            self._places = frozenset((pin.site, pin.place) for pin in pins)
