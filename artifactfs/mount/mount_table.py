"""The kernel's mount table, and unmounting. Never touches a mount itself: a wedged one would hang us."""

import ctypes
import os
import re
import select
import subprocess

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings.parsers import MOST_LEVELS

# Named again: the callers of this module need the rows, too.
from artifactfs.util.mountinfo import FUSE_TYPE as FUSE_TYPE
from artifactfs.util.mountinfo import Mount as Mount
from artifactfs.util.mountinfo import mounts as mounts
from artifactfs.util.mountinfo import parse as parse

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
# How long a probe of a mount may take before it counts as alive (if busy): a dead one answers at once.
_PROBE_S = 2.0


def places_of(device: str, pid: int | None = None) -> list[Mount]:
    """Return where a file system is mounted, and parts of it, in order. `pid`: as that process has it."""
    return [mount for mount in mounts(pid) if mount.device == device]


def mounted_at(point: str) -> Mount | None:
    """Return what is mounted on top at an absolute path, or None."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def directory_gone() -> UserError | None:
    """Return what to say where this process is in no directory, so that a relative path means nothing; else None."""
    try:
        os.getcwd()
    except OSError:
        # ENOENT where it was removed, ENOTCONN where it was in a mount that has ended.
        fact = "the directory that you are in no longer exists"
        return UserError(ExitCode.MOUNTPOINT_MISSING, fact, "give an absolute path")
    return None


def innermost(path: str) -> Mount | None:
    """Return the mount that a path is in by its text, which is not touched; None where the table has not even a root.

    Raises OSError where the directory that we are in is gone.
    """
    place = os.path.abspath(path)
    # Of several at one place the last counts.
    above = [m for m in mounts() if place == m.point or place.startswith(m.point.rstrip("/") + "/")]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def resolve(path: str) -> str:
    """Return the absolute path of a mount point without touching what may be mounted there. Raises UserError."""
    if path.count("/") > MOST_LEVELS:
        raise UserError(ExitCode.MOUNT_REFUSED, f"a mount point is at most {MOST_LEVELS} directories deep")
    try:
        parent, name = os.path.split(os.path.abspath(path))
    except OSError:
        raise directory_gone() or UserError(ExitCode.MOUNTPOINT_MISSING, f"{path} cannot be resolved") from None
    place = os.path.join(os.path.realpath(parent), name) if name else parent
    # A place in the mount table is no symbolic link, so there is nothing left to resolve.
    return place if mounted_at(place) is not None else os.path.realpath(place)


def is_dead(mount: Mount) -> bool:
    """Whether the process that served a FUSE mount is gone.

    A `statvfs` from a process of its own: of a dead mount it fails with ENOTCONN at once; on a busy one it may
    hang where no signal reaches it, so it is left behind, not waited for. Not `stat`: the kernel answers that
    of a dead mount from its cache until the attribute timeout.
    """
    code = (
        "import errno, os, sys\n"
        "try: os.statvfs(sys.argv[1])\n"
        "except OSError as e: sys.exit(9 if e.errno in (errno.ENOTCONN, errno.ECONNABORTED) else 0)"
    )
    probe = subprocess.Popen(
        ["/proc/self/exe", "-I", "-S", "-c", code, mount.point],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return probe.wait(_PROBE_S) == 9
    except subprocess.TimeoutExpired:
        probe.kill()
        return False


def unmount(point: str, *, lazy: bool) -> str | None:
    """Take away the mount at `point`. Returns None, or why it did not go, in the system's words.

    Root uses the system call; other users need fusermount3, which is set-uid.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if libc.umount2(os.fsencode(point), flags) == 0:
            return None
        return os.strerror(ctypes.get_errno())
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", point]
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return "fusermount3 is missing: install the package fuse3"
    said = " ".join(done.stderr.decode(errors="replace").split())
    if done.returncode == 0:
        return None
    return re.sub(r"^fusermount3: (?:failed to unmount \S+: )?", "", said) or "fusermount3 failed"


class Watch:
    """The mount table, kept open: a look takes no descriptor, and `fileno` turns readable when the table changed.

    The table signals a change as an exceptional condition (proc(5)), which trio cannot wait for; an epoll instance
    around it is plainly readable.
    """

    def __init__(self) -> None:
        self._table = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115 - closed by close()
        try:
            self._epoll = select.epoll()
            self._epoll.register(self._table.fileno(), select.EPOLLPRI)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._epoll.fileno()

    def changed(self) -> bool:
        """Whether the table changed since this was asked last."""
        return bool(self._epoll.poll(0))

    def has(self, device: str) -> bool:
        """Whether a file system is mounted anywhere; a row that cannot be understood counts, too."""
        self._table.seek(0)
        wanted = os.fsencode(device)
        return any(row.split(b" ", 3)[2:3] == [wanted] for row in self._table.read().split(b"\n"))

    def close(self) -> None:
        self._table.close()
        if hasattr(self, "_epoll"):
            self._epoll.close()
