"""The kernel's mount table, and unmounting. Never touches a mount itself: a wedged one would hang us."""

import ctypes
import os
import pwd
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from artifactfs.errors import ExitCode, UserError

FUSE_TYPE = "fuse.artifactfs"

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
# How long a probe of a mount may take before it counts as alive (if busy): a dead one answers at once.
_PROBE_S = 2.0


class Mount(msgspec.Struct, frozen=True):
    """A row of the mount table. `device` is "major:minor", the same for every place it is mounted at.

    `user_id`: who made a FUSE mount, in the namespace of who looks; None where it does not say. `allow_other`: whether
    the kernel lets others into it, root among them.
    """

    device: str
    point: str
    fstype: str
    source: str
    user_id: int | None = None
    allow_other: bool = False

    @property
    def user(self) -> str | None:
        """The name of who made it, in a form that `sudo -u` takes; None where it is not said."""
        if self.user_id is None:
            return None
        try:
            return pwd.getpwuid(self.user_id).pw_name
        except KeyError:
            return f"#{self.user_id}"


def mounts() -> list[Mount]:
    """Return this process's mount table, in order; of several at one place the last is on top."""
    found = []
    # As paths from the command line are read, whatever the locale.
    with open("/proc/self/mountinfo", encoding=sys.getfilesystemencoding(), errors="surrogateescape") as table:
        for line in table:
            head, _, tail = line.rstrip("\n").partition(" - ")
            fields, kinds = head.split(" "), tail.split(" ")
            user = re.search(r"(?:^|,)user_id=(\d+)", kinds[2]) if len(kinds) > 2 else None
            user_id = int(user[1]) if user else None
            open_to_all = len(kinds) > 2 and "allow_other" in kinds[2].split(",")
            found.append(Mount(fields[2], _unescape(fields[4]), kinds[0], _unescape(kinds[1]), user_id, open_to_all))
    return found


def mounted_at(point: str) -> Mount | None:
    """Return what is mounted on top at an absolute path, or None."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def directory_gone() -> UserError | None:
    """Return what to say where this process is in no directory, so that a relative path means nothing; else None."""
    try:
        os.getcwd()
    except OSError:
        # ENOENT where it was removed, ENOTCONN where it was in a mount that has ended.
        said = "the directory that you are in no longer exists: give an absolute path"
        return UserError(ExitCode.MOUNTPOINT_MISSING, said)
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
    """Return the absolute path of a mount point without touching what may be mounted there."""
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
    of a dead mount from its cache for as long as it was told to believe the attributes.
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

    As root by the system call; as anybody else through fusermount3, which is set-uid for it.
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


@contextmanager
def changes() -> Iterator[select.epoll]:
    """Yield an epoll whose own descriptor turns readable when the mount table changed.

    The table signals a change as an exceptional condition (proc(5)), which trio cannot wait for; an epoll
    instance around it is plainly readable. `poll(0)` on it takes the change off.
    """
    with open("/proc/self/mountinfo", "rb") as table, select.epoll() as epoll:
        epoll.register(table.fileno(), select.EPOLLPRI)
        yield epoll


def _unescape(field: str) -> str:
    """Undo the octal escapes of the mount table; what was not UTF-8 stays as surrogates."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
