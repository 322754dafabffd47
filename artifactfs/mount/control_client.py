"""Asking a mount from outside, for `artifactfs status`, `refresh` and `info`.

A mount may be wedged, stopped or dead; a process that touches it then hangs where no signal may reach it. So only a
child process touches it (ask_child.py), which is left behind when it does not answer in time.
"""

import errno
import json
import os
import subprocess
from collections.abc import Mapping

import msgspec

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import ask_child, mount_owner, mount_table
from artifactfs.util.escaping import shell_word

# For a report, which the mount has in memory, on a busy machine.
REPORT_S = 5.0
# For a command, whose path may need several requests: more than the longest wait of an ordinary mount.
ORDER_S = 40.0
_END_S = 1.0
# An answer is some KiB, of a run with many metrics a few MiB. Another user's mount may send one without an end.
_MOST_BYTES = 64 << 20
_CHILD = ask_child.__file__


class Answer(msgspec.Struct, frozen=True):
    """What a mount answered, and where it is mounted."""

    point: str
    text: str


class NoAnswer(UserError):
    """A mount does not answer, or its process is gone (`dead`)."""

    def __init__(self, fact: str, fix: str = "", *, command: str = "", dead: bool = False) -> None:
        super().__init__(ExitCode.NO_ANSWER, fact, fix, command=command)
        self.dead = dead


class NotOurs(UserError):
    """The kernel denies this user access to a mount: it belongs to another user."""


def my_mounts() -> list[mount_table.Mount]:
    """Return the mounts of artifactfs that this user has made, each place once.

    In a user namespace the result may hold mounts of another user with the same id outside: they raise `NotOurs`.
    """
    found = {mount.point: mount for mount in mount_table.mounts() if mount.fstype == mount_table.FUSE_TYPE}
    ids = mount_owner.my_ids()
    return [mount for mount in found.values() if mount.user_id in ids]


def ask(order: str, path: str, *, within_s: float, parent_too: bool = False) -> Answer:
    """Read a report of the mount that contains `path`, or send it a command about `path`. Raises UserError.

    `parent_too`: if the path does not exist, use the directory that would contain it.
    """
    if not path or "\0" in path:
        raise UserError(ExitCode.NOT_MOUNTED, f"{path!r} is not a path", "give a path in a mount of artifactfs")
    point = point_of(path)
    if order in ask_child.REPORTS and point is not None:
        # A report is made from memory; resolving a path in the mount may wait for the service.
        path = point
    if within_s > REPORT_S and point is not None:
        # This detects a stopped process soon; the command itself may take longer.
        ask("status.json", point, within_s=REPORT_S)
    process = subprocess.Popen(
        ["/proc/self/exe", "-I", "-S", _CHILD, order, path, "yes" if parent_too else "no", str(_MOST_BYTES)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        raise NoAnswer(
            f"the mount of {path} does not answer within {within_s:g} s; its process may be stopped",
            "its log shows what it waits for; `artifactfs umount` ends it",
        ) from None
    finally:
        _leave(process)
    return _answer(path, said)


def _leave(process: "subprocess.Popen[bytes]") -> None:
    """End a child, without waiting longer than `_END_S`: the kernel may hold it in a system call."""
    if process.poll() is None:
        process.kill()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return  # it ends as soon as the mount answers or ends


def _answer(path: str, said: bytes) -> Answer:
    try:
        reply: Mapping[str, object] = json.loads(said)
    except ValueError:
        raise NoAnswer(f"the query of the mount of {path} failed", "try again") from None
    if isinstance(point := reply.get("point"), str) and isinstance(text := reply.get("answer"), str):
        return Answer(point, text)
    if "outside" in reply:
        raise _outside(path)
    if isinstance(part := reply.get("part"), str):
        raise NoAnswer(
            f"{part} is a bind mount of a part of a mount that has no other mount point, so it has no reports; "
            "its process still runs",
            f"`artifactfs umount {shell_word(part)}` ends both",
            command=f"artifactfs umount {shell_word(part)}",
        )
    if "hidden" in reply:
        raise UserError(ExitCode.NOT_MOUNTED, f"the mount point of {path} is hidden by another mount", "unmount that")
    number, where = reply.get("errno"), str(reply.get("path"))
    number = number if isinstance(number, int) else errno.EIO
    if number in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV) and _type_at(path) in (mount_table.FUSE_TYPE, None):
        raise process_gone(path)
    inside = reply.get("inside")
    if isinstance(inside, str) and "/.artifactfs/" not in where:
        raise unreadable(number, path, inside)
    if "/.artifactfs/" in where or (number == errno.EACCES and _type_at(path) == mount_table.FUSE_TYPE):
        raise _refused(number, where)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        raise UserError(ExitCode.NOT_MOUNTED, f"there is no {path}", "give a path in a mount of artifactfs")
    raise UserError(ExitCode.NOT_MOUNTED, os.strerror(number), subject=path)


def point_of(path: str) -> str | None:
    """Return the mount point of the mount of ours that a path is in by its text; None if that is not known."""
    try:
        inner = mount_table.innermost(path)
    except OSError:
        return None  # the working directory is deleted
    return inner.point if inner is not None and inner.fstype == mount_table.FUSE_TYPE else None


def _outside(path: str) -> UserError:
    """Return the error for a path that is in no mount of artifactfs."""
    try:
        place = mount_table.resolve(path)
    except UserError as error:
        return error
    around = [mount for mount in mount_table.mounts() if mount.point == place]
    if any(mount.fstype == mount_table.FUSE_TYPE for mount in around):
        above = (
            f"a {around[-1].fstype} mount" if around[-1].fstype != mount_table.FUSE_TYPE else "another mount above it"
        )
        fact = f"the mount at {place} is hidden by {above}"
        return UserError(ExitCode.NOT_MOUNTED, fact, "`umount` that first; `findmnt` shows it")
    return UserError(
        ExitCode.NOT_MOUNTED, f"{path} is in no mount of artifactfs", "`artifactfs status` lists the mounts"
    )


def _type_at(path: str) -> str | None:
    """Return the type of the mount that a path is in, by its text and the mount table; None for the root's own."""
    inner = mount_table.innermost(path)
    return inner.fstype if inner is not None and inner.point != "/" else None


def process_gone(path: str) -> NoAnswer:
    """Return the error for a dead mount."""
    return NoAnswer(f"the process of the mount at {path} is gone", "`artifactfs umount` it and mount again", dead=True)


def unreadable(number: int, path: str, point: str) -> UserError:
    """Return the error for a path in a live mount whose lookup fails."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        fix = "check its number or name; `artifactfs refresh` its directory, if it is new"
        return UserError(ExitCode.INCOMPLETE, f"there is no {path} in the mount at {point}", fix)
    fix = f"`artifactfs status {shell_word(point)}` shows the cause; try again"
    return UserError(ExitCode.INCOMPLETE, os.strerror(number), fix, subject=path)


def _refused(number: int, where: str) -> UserError:
    point = where.partition("/.artifactfs/")[0]
    if number == errno.EACCES:  # the kernel's, for the whole mount or for what is private in it
        return NotOurs(ExitCode.NO_ANSWER, mount_owner.only_owner(point, mount_table.innermost(point)))
    if number in (errno.ENOENT, errno.ENOTDIR):
        return UserError(ExitCode.NO_ANSWER, f"{point} is served by an artifactfs without this command", "mount again")
    return NoAnswer(f"{point} did not answer: {os.strerror(number)}; see its log")
