"""Opens files that no other user of the machine can control (docs/semantics.md 6.2).

The rule is OpenSSH's for its configuration (ssh_config(5)): a file is trusted if it belongs to this user or to root,
and no other user can write to it. Two things are hard. The rule must hold for the very file that is read, so the open
descriptor is checked, not the path. And an owner of root proves little: a symbolic link of another user may lead to a
file in /proc that root owns and that user fills, and a FUSE mount of another user may claim any owner. So no link of
another user is followed (util/path_walk.py).
"""

import os
import stat

from artifactfs.util import mountinfo
from artifactfs.util.path_walk import ForeignLink, is_known, is_ours, open_path

# Opening a pipe does not wait for a writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class NotOurs(Exception):
    """A file of another user. `str()` continues a sentence after the path: "belongs to another user (uid 7)"."""


def open_ours(path: str) -> int:
    """Open a file of this user or of root for reading, at an absolute path, without waiting.

    The caller checks `others_write`. Raises NotOurs, and OSError as `os.open` does.
    """
    try:
        fd, _ = open_path(path, _FILE)
    except ForeignLink as error:
        raise NotOurs(f"leads through a symbolic link of another user (uid {error.user_id})") from None
    try:
        _check(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def others_write(status: os.stat_result) -> bool:
    """Whether other users can write to a file or a pipe; a device such as /dev/null holds no data.

    The group's bit covers access control lists, too (acl(5)).
    """
    return bool(status.st_mode & 0o022) and (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode))


def refuse_foreign(path: str, *, also_shared: bool = False) -> None:
    """Raise NotOurs where another user could replace a part of the path, as far as it exists.

    For directories that root writes to and that HOME or a variable names. `also_shared`: also where all users could.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    while True:
        found = os.lstat(path)
        if not is_ours(found.st_uid) and is_known(found.st_uid):
            raise NotOurs(f"can be changed by another user (uid {found.st_uid})")
        # In a sticky directory users can replace their own files alone.
        if also_shared and stat.S_ISDIR(found.st_mode) and found.st_mode & 0o1002 == 0o002:
            raise NotOurs(f"can be changed by all users, who can write to {path}")
        if path == (above := os.path.dirname(path)):
            return
        path = above


def _check(status: os.stat_result) -> None:
    if not is_ours(status.st_uid):
        raise NotOurs(f"belongs to another user (uid {status.st_uid})")
    if (mounter := _mounter(status)) is not None and not is_ours(mounter):
        raise NotOurs(f"lies in a mount of another user (uid {mounter})")


def _mounter(status: os.stat_result) -> int | None:
    """Return the user who mounted the FUSE file system of a file; None for others, and without a mount table."""
    try:
        table = mountinfo.mounts()
    except OSError:
        return None
    device = mountinfo.device_of(status)
    return next((mount.user_id for mount in table if mount.device == device and mount.user_id is not None), None)
