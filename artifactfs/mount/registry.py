"""The process that serves each mount: one locked file per mount, in the user's state directory.

The kernel releases a lock when its process ends, however it ends, so a file left over by a crash means nothing. Files
are never deleted, since another process may wait for the lock. The locks are those of fcntl(2), whose holder the kernel
names: a pid in a file may be that of any process.

Hard: `umount` ends a process by force because of such a file. So an entry counts only if no other user than root can
have written it. Other users may put anything in its place: a link, a pipe, an endless file.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import select
import signal
import stat
import struct
import time
from collections.abc import Callable

import msgspec

from artifactfs.errors import Notice, UserError
from artifactfs.settings import state_dir

_DEVICE = "/dev/fuse"
# An entry has a pid, a path of at most 4 KiB, and a device.
_MAX_BYTES = 32 << 10
# How long `register` waits for a process that is ending.
_ENDING_S = 3.0
_POLL_S = 0.01
# struct flock of fcntl(2): type, whence, start, length, pid; padded as a C compiler does.
_FLOCK = "hhqqi0q"


class Entry(msgspec.Struct, frozen=True):
    """The contents of a registry file. `device`: of the file system that is served; None until it is known."""

    pid: int
    mountpoint: str
    device: str | None = None


class UntrustedEntry(Exception):
    """Other users can have written an entry or its directory; its argument is a Notice."""


class Holder:
    """The process that holds the lock of an entry; a context manager. Its pidfd outlives a reuse of the pid.

    `pid`: 0 if the process is not visible here (in another container, say). `entry`: None if it is not trusted.
    `refusal`: why the process must not be ended by force; None if it holds the lock of its own trusted entry, and
    serves the file system that was asked for.
    """

    def __init__(self, path: str, file: int, pid: int, device: str | None) -> None:
        self._file, self._pidfd = file, -1
        self.pid = pid
        self.refusal = _distrust(path, file)
        self.entry = _read(file) if self.refusal is None else None
        self.refusal = self.refusal or _refusal(path, pid, self.entry, device)
        try:
            if pid > 0:
                self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            self.refusal = self.refusal or Notice(f"it cannot be held on to: {error.strerror}")

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def has_ended(self, timeout_s: float) -> bool:
        """Wait until the process is gone; returns whether it is."""
        if self._pidfd < 0:
            return _wait_until(lambda: _lock_owner(self._file) is None, timeout_s)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def send(self, number: int) -> bool:
        """Send a signal unless that is refused; returns whether it was sent, or the process is gone."""
        if self._pidfd < 0 or self.refusal is not None:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            self.refusal = Notice("it belongs to another user")
        return self.refusal is None


# Open until the process is gone: a wait for the lock is a wait for everything that the process still does. Each is the
# only descriptor of its file: closing another one would give up the lock (fcntl(2)).
_held: list[int] = []


def register(point: str) -> None:
    """Register this process, until its end, as the one that serves `point`.

    Raises BlockingIOError if another process still serves it; OSError; UntrustedEntry.
    """
    path = _path(point)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    file = _open(path, os.O_RDWR | os.O_CREAT)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        if os.fstat(file).st_uid == os.geteuid():
            os.fchmod(file, 0o600)
        if (why := _distrust(path, file)) is not None:
            raise UntrustedEntry(why)
        if not _wait_until(lambda: _lock(file), _ENDING_S):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        _write(file, Entry(os.getpid(), point))
        stack.pop_all()
    _held.append(file)


def record_device(point: str, device: str) -> None:
    """Record the file system that this process serves, after `register`. Raises OSError."""
    if _held:
        _write(_held[-1], Entry(os.getpid(), point, device))


def find(point: str, device: str | None = None) -> Holder | None:
    """Return the live process that serves a mount; None if none is registered.

    `device`: of the file system at `point`, which may have been moved or bound there. None stands for the file system
    that was mounted at `point`. Raises UntrustedEntry for the entry of `point`.
    """
    try:
        directory, own = os.path.split(_path(point))
    except UserError:
        return None  # without a home there are no entries
    others = sorted(glob.glob("*.json", root_dir=directory)) if device is not None else []
    for name in dict.fromkeys([own, *others]):
        try:
            holder = _holder(os.path.join(directory, name), device)
        except UntrustedEntry:
            if name == own:
                raise
            continue
        if holder is not None:
            served = holder.entry.device if holder.entry is not None else None
            if served == device or (name == own and None in (served, device)):
                return holder
            holder.__exit__()
    return None


def is_served(point: str) -> bool:
    """Whether a live process is registered for a mount at `point`."""
    try:
        holder = find(point)
    except UntrustedEntry:
        return False
    with holder or contextlib.nullcontext():
        return holder is not None


def _path(point: str) -> str:
    name = hashlib.sha256(os.fsencode(point)).hexdigest()[:16]
    return os.path.join(state_dir(), "mounts", f"{name}.json")


def _holder(path: str, device: str | None) -> Holder | None:
    try:
        file = _open(path, os.O_RDONLY)
    except OSError:
        return None  # not registered: by another user, or where no state could be written
    pid = _lock_owner(file)
    if pid is None:
        os.close(file)
        return None
    holder = Holder(path, file, pid, device)
    # The owner may have ended before its pidfd was opened.
    if pid == _lock_owner(file):
        return holder
    holder.__exit__()
    return None


def _open(path: str, flags: int) -> int:
    """Open an entry, and nothing else in its place, without waiting. Raises OSError, UntrustedEntry."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedEntry(Notice(f"{path} is a symbolic link")) from None
        if error.errno not in (errno.EISDIR, errno.ENXIO):
            raise
    else:
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    raise UntrustedEntry(Notice(f"{path} is not a regular file"))


def _distrust(path: str, file: int) -> Notice | None:
    """Return how other users can have written an entry, or put it there; None if they cannot."""
    directory = os.path.dirname(path)
    for name, found in ((directory, os.lstat(directory)), (path, os.fstat(file))):
        if stat.S_ISLNK(found.st_mode):
            return Notice(f"{name} is a symbolic link")
        if found.st_uid not in (os.geteuid(), 0):
            return Notice(f"{name} belongs to another user")
        if found.st_mode & 0o022:
            return Notice(f"{name} can be written by others", "`chmod go-w` it")
    return None


def _refusal(path: str, pid: int, entry: Entry | None, device: str | None) -> Notice | None:
    """Return why the process that holds the lock of an entry may not be the one that serves `device`."""
    if pid <= 0:
        return Notice("it is not visible here, as in another container")
    if entry is None:
        return Notice(f"{path} has no valid entry")
    if entry.pid != pid:
        return Notice(f"{path} names another process")
    if device is None or entry.device != device:
        return Notice(f"{path} names another mount")
    return None if _has_open(pid, device) else Notice("it does not serve this mount")


def _has_open(pid: int, device: str) -> bool:
    """Whether a process has the FUSE connection of a file system open; True if that is not visible."""
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                is_fuse = os.readlink(f"/proc/{pid}/fd/{number}") == _DEVICE
                with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
                    connection = re.search(rb"^fuse_connection:\s*(\d+)$", file.read(), re.MULTILINE)
                # Newer kernels (seen: 6.18) name the connection, which has the minor number of the device.
                if int(connection[1]) == int(device.partition(":")[2]) if connection else is_fuse:
                    return True
    except OSError:
        return True  # a process that is not dumpable, or from within a user namespace
    return False


def _lock_owner(file: int) -> int | None:
    """Return the pid that holds the lock of an entry; 0 if it is not visible here, None if there is no lock."""
    query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, query))
    except OSError:
        return None  # a file system without locks
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def _lock(file: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(_POLL_S)
    return holds


def _read(file: int) -> Entry | None:
    text = os.pread(file, _MAX_BYTES + 1, 0)
    if len(text) > _MAX_BYTES:
        return None
    try:
        # The standard library's, which takes names that are not UTF-8.
        return msgspec.convert(json.loads(text), Entry)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def _write(file: int, entry: Entry) -> None:
    text = json.dumps(msgspec.to_builtins(entry)).encode()
    os.ftruncate(file, 0)
    os.pwrite(file, text, 0)
