"""Opens a path as the kernel would, except through symbolic links of other users (docs/semantics.md 6.2).

Such a link is the choice of another user: it may lead root to any file, to be read or overwritten. Hard: nothing may
change between the check of a link and the step through it. So each directory of the path is held open, and each step
is relative to it.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable

# With O_DIRECTORY the kernel mounts the file system of an automounter there.
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# The kernel's limit (path_resolution(7)).
_MAX_LINKS = 40
# The initial user namespace maps every user id to itself (user_namespaces(7)).
INITIAL_IDS = [(0, 0, 2**32 - 1)]


class ForeignLink(PermissionError):
    """A path leads through a symbolic link of the user `user_id`. `filename`: the link."""

    def __init__(self, link: str, user_id: int) -> None:
        super().__init__(errno.EACCES, f"{link} is a link of another user", link)
        self.user_id = user_id


def open_path(
    path: str, flags: int, *, links: bool = True, make: Callable[[str, int], None] | None = None
) -> tuple[int, str]:
    """Open an absolute path with the flags of `os.open`; returns the descriptor, and the path without its links.

    `links`: whether links are followed at all; a path with one is ELOOP or ENOTDIR otherwise. `make(name, dir_fd)`
    makes a missing directory of the path. A new file has mode 0600. Raises OSError, ForeignLink.
    """
    steps = path.split("/")[::-1]
    names: list[str] = []
    followed = 0
    at = os.open("/", DIRECTORY)
    try:
        while steps:
            name = steps.pop()
            if name in ("", "."):
                continue
            place = os.path.join("/", *names, name)
            is_last = not any(steps)
            wanted = flags if is_last else DIRECTORY
            try:
                fd = _open_step(name, wanted | os.O_NOFOLLOW, at, make)
            except OSError as error:
                error.filename = place
                target = _target(name, at, place) if error.errno in (errno.ELOOP, errno.ENOTDIR) and links else None
                if target is None:
                    raise
                followed += 1
                if followed > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place) from None
                if not _is_procfs(at):
                    steps += target.split("/")[::-1]
                    if target.startswith("/"):
                        names = []
                        at = _replaced(at, os.open("/", DIRECTORY))
                    continue
                # /dev/fd/63 of `<(...)`: only the kernel can follow such a link, which has no path.
                fd = os.open(name, wanted, 0o600, dir_fd=at)
            names = names[:-1] if name == ".." else [*names, name]
            if is_last:
                return fd, os.path.join("/", *names)
            at = _replaced(at, fd)
        return os.open(".", flags, 0o600, dir_fd=at), os.path.join("/", *names)
    finally:
        os.close(at)


def is_ours(user_id: int) -> bool:
    """Whether a uid is this user's, or root's."""
    return user_id in (0, os.geteuid())


def is_known(user_id: int) -> bool:
    """Whether a uid is mapped: in a user namespace root's own `/` and `/dev/fd` show the overflow uid.

    Links and directories with the overflow uid count as root's, files do not (user_namespaces(7)).
    """
    return any(first <= user_id < first + count for first, _, count in id_map())


def id_map(text: str | None = None) -> list[tuple[int, int, int]]:
    """Return the map of a user namespace: (first id inside, first id outside, count). `text`: of another uid_map."""
    try:
        if text is None:
            with open("/proc/self/uid_map", encoding="ascii") as file:
                text = file.read()
        rows = [row.split() for row in text.split("\n") if row]
        return [(int(inside), int(outside), int(count)) for inside, outside, count in rows]
    except (OSError, ValueError):
        return INITIAL_IDS


def _open_step(name: str, flags: int, at: int, make: Callable[[str, int], None] | None) -> int:
    try:
        return os.open(name, flags, 0o600, dir_fd=at)
    except FileNotFoundError:
        if make is None:
            raise
    with contextlib.suppress(FileExistsError):
        make(name, at)
    return os.open(name, flags, 0o600, dir_fd=at)


def _target(name: str, at: int, place: str) -> str | None:
    """Return the target of a link, None for another file. Raises ForeignLink."""
    link = os.open(name, _LINK, dir_fd=at)
    try:
        found = os.fstat(link)
        if not stat.S_ISLNK(found.st_mode):
            return None
        if not is_ours(found.st_uid) and is_known(found.st_uid):
            raise ForeignLink(place, found.st_uid)
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _is_procfs(directory: int) -> bool:
    try:
        return os.fstat(directory).st_dev == os.stat("/proc/self/").st_dev
    except OSError:
        return False
