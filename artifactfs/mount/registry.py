"""Which process serves a mount: one locked file a mount, in the user's state directory.

The lock goes with the process, however it ends, so a file left over by a crash says nothing. It is not deleted either:
another process may be waiting for its lock. It is a lock of fcntl(2)'s, whose holder the kernel itself names: a pid in
a file may be any process's.

Hard: a process is ended by force because of such a file, so only a file counts that no one except the user and root can
have written. Others may put anything in its place: a link, a pipe, an endless file.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import select
import signal
import stat
import struct
import time

import msgspec

from artifactfs.errors import UserError
from artifactfs.settings import state_dir

_DEVICE = "/dev/fuse"
# An entry has a pid, a path of at most 4 KiB, and a device.
_MOST_BYTES = 32 << 10
# How long `enter` waits for a process that is ending.
_ENDING_S = 3.0
_LOOK_S = 0.01
# struct flock of fcntl(2): type, whence, start, length, pid; padded as a C compiler does.
_FLOCK = "hhqqi0q"


class Entry(msgspec.Struct, frozen=True):
    """The content of a register file. `device`: of the file system that is served; None while that is not known."""

    pid: int
    mountpoint: str
    device: str | None = None


class Refused(Exception):
    """The file of an entry, or its directory, can have been written by others. `str()` says which, and why."""


class Holder:
    """The process that holds the lock of an entry; a context manager, whose process stays the same whatever its pid.

    `pid`: 0 where the process cannot be seen from here (in another container, say). `entry`: None where it says nothing
    that counts. `doubt`: why the process must not be ended by force; None where it holds the lock of an entry of its
    own, in a file that only this user and root can write, and serves the file system that was asked for.
    """

    def __init__(self, file: int, pid: int, entry: Entry | None, doubt: str | None) -> None:
        self.pid, self.entry, self.doubt = pid, entry, doubt
        self._file = file
        self._process: int | None = None
        try:
            if pid > 0:
                self._process = os.pidfd_open(pid)
        except OSError as error:
            self.doubt = doubt or f"it cannot be held on to: {error.strerror}"

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._process is not None:
            os.close(self._process)

    def has_ended(self, within_s: float) -> bool:
        """Wait until the process is gone; returns whether it is."""
        if self._process is not None:
            ended = select.poll()
            ended.register(self._process, select.POLLIN)
            return bool(ended.poll(within_s * 1000))
        end = time.monotonic() + within_s
        while _locked_by(self._file) is not None:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK_S)
        return True

    def send(self, number: int) -> bool:
        """Send a signal, unless there is a doubt; returns whether it was sent, or the process is gone."""
        if self.doubt is not None or self._process is None:
            return False
        try:
            signal.pidfd_send_signal(self._process, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            self.doubt = "it is another user's"
            return False
        return True


# Open until the process is gone: a wait for the lock is a wait for everything that the process still does. Each is the
# only descriptor of its file: closing another one would give up the lock (fcntl(2)).
_held: list[int] = []


def enter(point: str) -> None:
    """Register this process as the one that serves `point`, to its end.

    Raises OSError; BlockingIOError when another process still serves it; Refused.
    """
    path = _path(point)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    file = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        _take_over(path, file)
        _lock(file)
        _write(file, Entry(os.getpid(), point))
    except BaseException:
        os.close(file)
        raise
    _held.append(file)


def serves(point: str, device: str) -> None:
    """Note which file system this process serves, and where, after `enter`. Raises OSError."""
    if _held:
        _write(_held[-1], Entry(os.getpid(), point, device))


def find(point: str, device: str | None = None) -> Holder | None:
    """Return the process that serves a mount; None where none is registered that lives.

    `device`: of the file system at `point`, which may have been moved or bound there; None for whatever was mounted
    at `point` by its entry. Raises Refused where the entry of `point` cannot be one of ours.
    """
    try:
        own = _path(point)
    except UserError:
        return None  # without a home nothing is registered
    held = _holder(own, device)
    if device is None or (held is not None and (held.entry is None or held.entry.device in (None, device))):
        return held
    if held is not None:
        # It serves what was mounted here before.
        held.__exit__()
    for path in _others(own):
        try:
            held = _holder(path, device)
        except Refused:
            continue
        if held is not None:
            if held.entry is not None and held.entry.device == device:
                return held
            held.__exit__()
    return None


def is_served(point: str) -> bool:
    """Whether a process lives that was registered for a mount at `point`."""
    try:
        held = find(point)
    except Refused:
        return False
    if held is None:
        return False
    held.__exit__()
    return True


def _path(point: str) -> str:
    name = hashlib.sha256(os.fsencode(point)).hexdigest()[:16]
    return os.path.join(state_dir(), "mounts", f"{name}.json")


def _others(path: str) -> list[str]:
    directory = os.path.dirname(path)
    try:
        return [other for name in sorted(os.listdir(directory)) if (other := os.path.join(directory, name)) != path]
    except OSError:
        return []


def _holder(path: str, device: str | None) -> Holder | None:
    """Return the process that holds the lock of an entry, None for none. Raises Refused."""
    try:
        file = _open(path, os.O_RDONLY)
    except OSError:
        return None  # never registered: by another user, or where no state could be written
    held: Holder | None = None
    try:
        pid = _locked_by(file)
        if pid is not None:
            why = _why_not(path, file)
            entry = _read(file) if why is None else None
            held = Holder(file, pid, entry, why or _doubt(path, pid, entry, device))
            # From now on it is the same process. Was it before?
            if held.pid == _locked_by(file):
                return held
    except BaseException:
        os.close(file)
        raise
    if held is not None:
        held.__exit__()
    else:
        os.close(file)
    return None


def _open(path: str, flags: int) -> int:
    """Open an entry, and nothing that only stands in its place. Raises OSError, Refused."""
    try:
        # Not to wait for a pipe's other end, nor for a terminal.
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{path} is a symbolic link") from None
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise Refused(f"{path} is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Refused(f"{path} is not a regular file")
    return file


def _take_over(path: str, file: int) -> None:
    """Close an entry to others. Raises Refused where it is not ours to close."""
    if os.fstat(file).st_uid == os.geteuid():
        os.fchmod(file, 0o600)
    if (why := _why_not(path, file)) is not None:
        raise Refused(why)


def _why_not(path: str, file: int) -> str | None:
    """Return why an entry does not count: others can have written it, or put it there. None where it does."""
    directory = os.path.dirname(path)
    for name, found in ((directory, os.lstat(directory)), (path, os.fstat(file))):
        if stat.S_ISLNK(found.st_mode):
            return f"{name} is a symbolic link"
        if found.st_uid not in (os.geteuid(), 0):
            return f"{name} belongs to another user"
        if found.st_mode & 0o022:
            return f"{name} can be written by others: `chmod go-w` it"
    return None


def _doubt(path: str, pid: int, entry: Entry | None, device: str | None) -> str | None:
    """Return why a process that holds an entry's lock may not be the one that serves the file system `device`."""
    if pid <= 0:
        return "it cannot be seen from here, as in another container"
    if entry is None:
        return f"{path} does not say what it serves"
    if entry.pid != pid:
        return f"{path} names another process"
    if device is None or entry.device != device:
        return f"{path} does not say that it serves this mount"
    return None if _has_open(pid, device) else "it does not serve this mount"


def _has_open(pid: int, device: str) -> bool:
    """Whether a process has a file system's FUSE connection open; True where the kernel does not tell that."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return True  # as of a process that is not dumpable
    for number in numbers:
        try:
            is_fuse = os.readlink(f"/proc/{pid}/fd/{number}") == _DEVICE
            with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
                connection = re.search(rb"^fuse_connection:\s*(\d+)$", file.read(), re.MULTILINE)
        except FileNotFoundError:
            continue
        except OSError:
            return True  # as from within a user namespace
        # Newer kernels (seen: 6.18) name the connection, which has the minor number of the device.
        if int(connection[1]) == int(device.partition(":")[2]) if connection else is_fuse:
            return True
    return False


def _locked_by(file: int) -> int | None:
    """Return the pid that holds the lock of an entry, as it is seen from here: 0 for none that is. None: not locked."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return None  # a file system without locks
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def _lock(file: int) -> None:
    end = time.monotonic() + _ENDING_S
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_LOOK_S)
        else:
            return


def _read(file: int) -> Entry | None:
    """Return what an entry says, None where that is nothing."""
    text = os.pread(file, _MOST_BYTES + 1, 0)
    if len(text) > _MOST_BYTES:
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
