"""Which process serves a mount: one locked file a mount, in the user's state directory.

The lock goes with the process, however it ends, so a file left over by a crash says nothing and there is no
pid to mistake for another process's. It is not deleted either: another process may be waiting for its lock.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import time
from typing import IO

from artifactfs.errors import UserError
from artifactfs.settings import state_dir


def _path(point: str) -> str:
    name = hashlib.sha256(os.fsencode(point)).hexdigest()[:16]
    return os.path.join(state_dir(), "mounts", f"{name}.json")


# Open until the process is gone: whoever waits for the lock waits for everything that the process still does.
_held: list[IO[str]] = []


def enter(point: str) -> None:
    """Register this process as the one that serves `point`, to its end.

    Raises OSError; BlockingIOError when another process still serves it.
    """
    path = _path(point)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="utf-8")  # noqa: SIM115
    try:
        # One that is being unmounted may take a moment to end.
        _lock(file, within_s=3.0)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "mountpoint": point}, file)
        file.flush()
    except BaseException:
        file.close()
        raise
    _held.append(file)


def wait_for_end(point: str, within_s: float) -> int | None:
    """Wait until no process serves `point`. Returns None, or the pid of the one that still does."""
    try:
        file = open(_path(point), "r+", encoding="utf-8")  # noqa: SIM115
    except (OSError, UserError):
        return None  # never registered: by another user, or where no state could be written, or without a home
    with file:
        try:
            _lock(file, within_s)
        except BlockingIOError:
            try:
                return int(json.load(file)["pid"])
            except (ValueError, KeyError, TypeError):
                return None
    return None


def terminate(pid: int) -> bool:
    """Ask a process that holds a register's lock to end; returns whether it may be asked, or is gone."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def kill(pid: int) -> None:
    """End by force a process that holds a register's lock. One that is already gone is as good."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _lock(file: IO[str], within_s: float) -> None:
    end = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.01)
        else:
            return
