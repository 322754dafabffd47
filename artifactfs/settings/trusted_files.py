"""Opens files that no other user of the machine can control (docs/semantics.md 6.2).

The rule is OpenSSH's for its configuration (ssh_config(5)): a file is trusted if it belongs to this user or to root,
and no other user can write to it. Two things are hard. The rule must hold for the very file that is read, so the open
descriptor is checked, not the path. And an owner of root proves little: a symbolic link of another user may lead to a
file in /proc that root owns and that user fills, and a FUSE mount of another user may claim any owner. So the path is
resolved here, with each directory held open, and each link is checked before it is followed.
"""

import errno
import os
import stat

from artifactfs.util import mountinfo

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a pipe does not wait for a writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# The kernel's limit (path_resolution(7)).
_MOST_LINKS = 40


class NotOurs(Exception):
    """A file of another user. `str()` continues a sentence after the path: "belongs to another user (uid 7)"."""


def open_ours(path: str) -> int:
    """Open a file of this user or of root for reading, at an absolute path, without waiting.

    The caller checks `others_write`. Raises NotOurs, and OSError as `os.open` does.
    """
    fd = _walk(path)
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


def refuse_foreign(path: str) -> None:
    """Raise NotOurs where another user could replace a part of the path, as far as it exists.

    For directories that root writes to and that HOME or a variable names.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    while True:
        found = os.lstat(path)
        if not _is_ours(found.st_uid) and _is_known(found.st_uid):
            raise NotOurs(f"can be changed by another user (uid {found.st_uid})")
        if path == (above := os.path.dirname(path)):
            return
        path = above


def _is_ours(user_id: int) -> bool:
    return user_id in (0, os.geteuid())


def _is_known(user_id: int) -> bool:
    """Whether a uid is mapped: in a user namespace root's own `/` and `/dev/fd` show the overflow uid.

    Links and directories with the overflow uid count as root's, files do not (user_namespaces(7)).
    """
    try:
        with open("/proc/self/uid_map", "rb") as file:
            ranges = [[int(word) for word in row.split()] for row in file.read().splitlines()]
    except OSError:
        return True
    return any(first <= user_id < first + count for first, _, count in ranges)


def _check(status: os.stat_result) -> None:
    if not _is_ours(status.st_uid):
        raise NotOurs(f"belongs to another user (uid {status.st_uid})")
    if (mounter := _mounter(status)) is not None and not _is_ours(mounter):
        raise NotOurs(f"lies in a mount of another user (uid {mounter})")


def _mounter(status: os.stat_result) -> int | None:
    """Return the user who mounted the FUSE file system of a file; None for others, and without a mount table."""
    try:
        table = mountinfo.mounts()
    except OSError:
        return None
    device = mountinfo.device_of(status)
    return next((mount.user_id for mount in table if mount.device == device and mount.user_id is not None), None)


def _walk(path: str) -> int:
    """Open a file and check every link of its path; each step is relative to a directory that is held open."""
    steps = path.split("/")[::-1]
    links = 0
    at = os.open("/", _DIRECTORY)
    try:
        while steps:
            name = steps.pop()
            if name in ("", "."):
                continue
            try:
                if not any(steps):
                    return os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=at)
                below = os.open(name, _DIRECTORY, dir_fd=at)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                target = _target(name, at)
                if target is None:
                    raise
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                if not _is_procfs(at):
                    if target.startswith("/"):
                        at = _replaced(at, os.open("/", _DIRECTORY))
                    steps += target.split("/")[::-1]
                    continue
                # /dev/fd/63 of `<(...)`: only the kernel can follow such a link, which has no path.
                if not any(steps):
                    return os.open(name, _FILE, dir_fd=at)
                below = os.open(name, _DIRECTORY & ~os.O_NOFOLLOW, dir_fd=at)
            at = _replaced(at, below)
        return os.open(".", _FILE, dir_fd=at)
    finally:
        os.close(at)


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _target(name: str, at: int) -> str | None:
    """Return a link's target, None for what is no link. Raises NotOurs for a link of another user."""
    link = os.open(name, _LINK, dir_fd=at)
    try:
        found = os.fstat(link)
        if not stat.S_ISLNK(found.st_mode):
            return None
        if not _is_ours(found.st_uid) and _is_known(found.st_uid):
            raise NotOurs(f"leads through a symbolic link of another user (uid {found.st_uid})")
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _is_procfs(directory: int) -> bool:
    try:
        return os.fstat(directory).st_dev == os.stat("/proc/self/").st_dev
    except OSError:
        return False
