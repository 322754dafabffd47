"""The kernel's mount table as rows: one parser of /proc/PID/mountinfo for every process of artifactfs.

Imports only the standard library: `mount/ask_child.py` starts with it, and must start quickly.
"""

import os
import pwd
import re
from typing import NamedTuple

FUSE_TYPE = "fuse.artifactfs"


class Mount(NamedTuple):
    """A row of the mount table. `device` is "major:minor", the same at each place of a file system.

    `user_id`: the user who made a FUSE mount, by the numbers of the user namespace in which it was made; None if the
    row has no user. `allow_other`: whether the kernel admits other users, root among them. `root`: the directory of
    the file system that is visible at `point`; not "/" for a bind mount of a part.
    """

    device: str
    point: str
    fstype: str
    source: str
    user_id: int | None = None
    allow_other: bool = False
    root: str = "/"

    @property
    def is_ours(self) -> bool:
        """Whether it is a mount of artifactfs, of any user."""
        return self.fstype == FUSE_TYPE

    @property
    def user(self) -> str | None:
        """The name of the user who made it, in a form that `sudo -u` accepts; None if the row has no user."""
        if self.user_id is None:
            return None
        try:
            return pwd.getpwuid(self.user_id).pw_name
        except KeyError:
            return f"#{self.user_id}"


def parse(row: bytes) -> Mount | None:
    """Return the mount in a row of mountinfo (proc_pid_mountinfo(5)); None for a row that is not understood.

    A field is the text between two single spaces, and may be empty: the kernel escapes blanks and line feeds in names
    of users, and nothing else (a carriage return, bytes that are not UTF-8).
    """
    fields = row.split(b" ")
    try:
        # After six fields any number of optional ones, and a "-" that ends them.
        fstype, source, *options = fields[fields.index(b"-", 6) + 1 :]
    except ValueError:
        return None
    device, root, point = map(_text, fields[2:5])
    flags = options[0].split(b",") if options else []
    user_id = next((int(flag[8:]) for flag in flags if re.fullmatch(rb"user_id=\d{1,10}", flag)), None)
    return Mount(device, point, _text(fstype), _text(source), user_id, b"allow_other" in flags, root)


def mounts(pid: int | None = None) -> list[Mount]:
    """Return the mount table, in order; of several mounts at one place the last is on top. `pid`: as seen by it."""
    with open(f"/proc/{'self' if pid is None else pid}/mountinfo", "rb") as table:
        return [mount for row in table.read().split(b"\n") if (mount := parse(row)) is not None]


def holding(path: str) -> Mount | None:
    """Return the mount that a path without links is on; None where the table is unreadable or does not say."""
    try:
        table = mounts()
        device = device_of(os.stat(path))
    except OSError:
        return None
    above = [mount for mount in table if mount.point == "/" or f"{path}/".startswith(f"{mount.point}/")]
    # The subvolumes of btrfs have devices that the table does not name.
    same = [mount for mount in above if mount.device == device] or above
    return max(reversed(same), key=lambda mount: len(mount.point), default=None)


def device_of(status: os.stat_result) -> str:
    """Return the device of a file as the mount table writes it."""
    return f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"


def _text(field: bytes) -> str:
    """Undo the octal escapes; decoded like paths of the command line, whatever the locale."""
    return os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), field))
