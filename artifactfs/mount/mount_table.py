"""The kernel's mount table, and unmounting. Never touches a mount itself: a wedged mount would block this process."""

import contextlib
import ctypes
import os
import re
import select
import subprocess
from collections.abc import Sequence

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.settings.parsers import MOST_LEVELS

# Named again: the callers of this module need the rows, too.
from artifactfs.util.mountinfo import FUSE_TYPE as FUSE_TYPE
from artifactfs.util.mountinfo import Mount as Mount
from artifactfs.util.mountinfo import mounts as mounts
from artifactfs.util.mountinfo import parse as parse

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def places_of(device: str, pid: int | None = None) -> list[Mount]:
    """Return where a file system is mounted, and parts of it, in order. `pid`: as that process sees it."""
    return [mount for mount in mounts(pid) if mount.device == device]


def mounted_at(point: str) -> Mount | None:
    """Return the mount on top at an absolute path, or None."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def directory_gone() -> UserError | None:
    """Return the error for a working directory that no longer exists, so that no relative path resolves; else None."""
    try:
        os.getcwd()
    except OSError:
        # ENOENT if it was removed, ENOTCONN if it was in a mount that has ended.
        fact = "the directory that you are in no longer exists"
        return UserError(ExitCode.MOUNTPOINT_MISSING, fact, "give an absolute path")
    return None


def innermost(path: str, table: Sequence[Mount] | None = None) -> Mount | None:
    """Return the mount that a path is in by its text, without touching it; None for a table without a root.

    `table`: None for the kernel's as it is now. Raises OSError if the working directory no longer exists.
    """
    place = os.path.abspath(path)
    # Of several at one place the last counts.
    rows = mounts() if table is None else table
    above = [m for m in rows if place == m.point or place.startswith(m.point.rstrip("/") + "/")]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def resolve(path: str) -> str:
    """Return the absolute path of a mount point without touching a mount there. Raises UserError."""
    if path.count("/") > MOST_LEVELS:
        fact = f"a mount point is at most {MOST_LEVELS} directories deep"
        raise UserError(ExitCode.MOUNT_REFUSED, fact, "give a shorter path")
    try:
        parent, name = os.path.split(os.path.abspath(path))
    except OSError:
        fact = f"{path} cannot be resolved"
        raise directory_gone() or UserError(ExitCode.MOUNTPOINT_MISSING, fact, "give an absolute path") from None
    place = os.path.join(os.path.realpath(parent), name) if name else parent
    # A place in the mount table is no symbolic link, so there is nothing left to resolve.
    return place if mounted_at(place) is not None else os.path.realpath(place)


def unmount(point: str, *, lazy: bool) -> Notice | None:
    """Unmount the mount at `point`. Returns None, or the system's reason for a refusal.

    Root uses the system call; other users need fusermount3, which is set-uid.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        return Notice(os.strerror(ctypes.get_errno())) if libc.umount2(os.fsencode(point), flags) else None
    command = ["fusermount3", "-uz" if lazy else "-u", "--", point]
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return Notice("fusermount3 is missing", "install the package fuse3")
    if done.returncode == 0:
        return None
    said = " ".join(done.stderr.decode(errors="replace").split())
    return Notice(re.sub(r"^fusermount3: (?:failed to unmount \S+: )?", "", said) or "fusermount3 failed")


class Watch:
    """The mount table, kept open: a read needs no new descriptor, and `fileno` is readable after a change.

    The table signals a change as an exceptional condition (proc(5)), which trio cannot wait for; an epoll instance
    around it is plainly readable.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self._table = stack.enter_context(open("/proc/self/mountinfo", "rb", buffering=0))
            self._epoll = stack.enter_context(select.epoll())
            self._epoll.register(self._table.fileno(), select.EPOLLPRI)
            self.close = stack.pop_all().close

    def fileno(self) -> int:
        return self._epoll.fileno()

    def changed(self) -> bool:
        """Whether the table changed since the last call."""
        return bool(self._epoll.poll(0))

    def has(self, device: str) -> bool:
        """Whether a file system is mounted anywhere; a row that cannot be parsed counts, too."""
        self._table.seek(0)
        wanted = os.fsencode(device)
        return any(row.split(b" ", 3)[2:3] == [wanted] for row in self._table.read().split(b"\n"))
