"""Asking somebody's mount from outside: what `artifactfs status`, `refresh` and `info` do.

A mount may be wedged, stopped or dead, and then whoever touches it hangs where no signal may reach him. So it is only
ever touched by a child process, which is left behind when it does not answer in time. The child finds the mount that a
path is in by the kernel's own account of it, whatever links and bind mounts led there; the inode number is what the
path is called in the order (tree/reports.py).
"""

import errno
import json
import os
import subprocess
from collections.abc import Mapping

import msgspec

from artifactfs.errors import ExitCode, UserError
from artifactfs.escaping import shell_word
from artifactfs.mount import table

# For what a mount has at hand, on a busy machine.
REPORT_S = 5.0
# For what may need a few looks at the service on the way to a path: more than the longest wait of an ordinary mount.
ORDER_S = 40.0
_END_S = 1.0
# What is about the whole mount, whichever path in it was given.
_REPORTS = frozenset({"status.json", "metrics", "errors"})

# Prints one JSON object: the answer and whose it is; or the errno, what could not be read, and the mount that it is in.
_CHILD = r"""
import json, os, sys
order, path, parent_too = sys.argv[1], sys.argv[2], sys.argv[3] == "yes"
def say(**told):
    print(json.dumps(told)); sys.exit()
def points_of(found):
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    points = []
    with open("/proc/self/mountinfo", encoding=sys.getfilesystemencoding(), errors="surrogateescape") as table:
        for line in table:
            head, _, tail = line.partition(" - ")
            fields = head.split(" ")
            if fields[2] == device and fields[3] == "/" and tail.startswith("fuse.artifactfs "):
                parts = fields[4].split("\\")
                points.append(parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:]))
    return points
def around(path):
    # From the top, so that what fails is asked for once more and not once for each name below it.
    found = None
    try:
        above = os.path.dirname(os.path.abspath(path))
        for end in (*(at for at, each in enumerate(above) if at and each == "/"), len(above)):
            found = os.stat(above[:end])
    except OSError:
        pass
    points = points_of(found) if found is not None else []
    return points[0] if points else None
try:
    try:
        fd = os.open(path, os.O_PATH)
    except FileNotFoundError:
        if not parent_too:
            raise
        path = os.path.dirname(os.path.abspath(path))
        fd = os.open(path, os.O_PATH)
    found = os.fstat(fd)
    points = points_of(found)
    if not points:
        say(outside=True)
    for point in points:
        try:
            if os.stat(point).st_dev == found.st_dev:
                break
        except OSError:
            continue
    else:
        say(hidden=True)
    name = order if order in ("status.json", "metrics", "errors") else f"{order}/{found.st_ino}"
    path = f"{point}/.artifactfs/{name}"
    with open(path, "rb", buffering=0) as file:
        answer = b""
        while piece := file.read(1 << 20):
            answer += piece
    say(point=point, answer=answer.decode("utf-8", "replace"))
except OSError as error:
    say(errno=error.errno, path=path, inside=around(path))
"""


class Answer(msgspec.Struct, frozen=True):
    """What a mount answered, and where it is mounted."""

    point: str
    text: str


class NoAnswer(UserError):
    """A mount that says nothing, or whose process is gone (`dead`)."""

    def __init__(self, message: str, *, dead: bool = False) -> None:
        super().__init__(ExitCode.NO_ANSWER, message)
        self.dead = dead


def mounts_of(user_id: int) -> list[table.Mount]:
    """Return the mounts of artifactfs that a user has made, each place once."""
    found = {mount.point: mount for mount in table.mounts() if mount.fstype == table.FUSE_TYPE}
    return [mount for mount in found.values() if mount.user_id == user_id]


def ask(order: str, path: str, *, within_s: float, parent_too: bool = False) -> Answer:
    """Ask the mount that `path` is in for a report, or give it an order about `path`.

    `parent_too`: where there is no such path, ask about the directory that it would be in. Raises UserError.
    """
    if not path or "\0" in path:
        raise UserError(ExitCode.NOT_MOUNTED, f"{path!r} is not a path: give one in a mount of artifactfs")
    point = point_of(path)
    if order in _REPORTS and point is not None:
        # What is at hand must not wait for the service, as a path in the mount may.
        path = point
    if within_s > REPORT_S and point is not None:
        # One that is stopped is found out soon; the order itself may take a while.
        ask("status.json", point, within_s=REPORT_S)
    process = subprocess.Popen(
        ["/proc/self/exe", "-I", "-S", "-c", _CHILD, order, path, "yes" if parent_too else "no"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        raise NoAnswer(
            f"the mount of {path} does not answer within {within_s:g} s: is its process stopped? "
            f"`artifactfs umount` ends it; its log says what it waits for"
        ) from None
    finally:
        _leave(process)
    return _answer(path, said)


def _leave(process: "subprocess.Popen[bytes]") -> None:
    """End a child; one that the kernel holds is left behind."""
    if process.poll() is None:
        process.kill()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return  # it dies when the mount answers, or ends


def _answer(path: str, said: bytes) -> Answer:
    try:
        told: Mapping[str, object] = json.loads(said)
    except ValueError:
        raise NoAnswer(f"asking the mount of {path} failed: try again") from None
    if isinstance(point := told.get("point"), str) and isinstance(text := told.get("answer"), str):
        return Answer(point, text)
    if "outside" in told:
        raise UserError(
            ExitCode.NOT_MOUNTED, f"{path} is in no mount of artifactfs: `artifactfs status` lists the mounts"
        )
    if "hidden" in told:
        raise UserError(ExitCode.NOT_MOUNTED, f"the mount point of {path} is hidden by another mount: unmount that")
    number, where = told.get("errno"), str(told.get("path"))
    number = number if isinstance(number, int) else errno.EIO
    if number in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV) and _type_at(path) in (table.FUSE_TYPE, None):
        raise process_gone(path)
    inside = told.get("inside")
    if isinstance(inside, str) and "/.artifactfs/" not in where:
        raise unreadable(number, path, inside)
    if "/.artifactfs/" in where or (number == errno.EACCES and _type_at(path) == table.FUSE_TYPE):
        raise _refused(number, where)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        raise UserError(ExitCode.NOT_MOUNTED, f"there is no {path}: give a path in a mount of artifactfs")
    raise UserError(ExitCode.NOT_MOUNTED, f"{path}: {os.strerror(number)}")


def point_of(path: str) -> str | None:
    """Return the mount point of the mount of ours that a path is in by its text; None where that tells nothing."""
    try:
        inner = table.innermost(path)
    except OSError:
        return None  # where we stand is gone
    return inner.point if inner is not None and inner.fstype == table.FUSE_TYPE else None


def _type_at(path: str) -> str | None:
    """Return the type of the mount that a path is in, by its text and the mount table; None for the root's own."""
    inner = table.innermost(path)
    return inner.fstype if inner is not None and inner.point != "/" else None


def process_gone(path: str) -> NoAnswer:
    """Return what to say of a mount that is dead."""
    return NoAnswer(f"the process of the mount at {path} is gone: `artifactfs umount` it and mount again", dead=True)


def unreadable(number: int, path: str, point: str) -> UserError:
    """Return what to say of a path in a live mount that the service, by way of the mount, does not give."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        said = f"there is no {path} in the mount at {point}: is its number or name right?"
        return UserError(ExitCode.INCOMPLETE, f"{said} `artifactfs refresh` its directory, if it is new")
    said = f"{path}: {os.strerror(number)}"
    return UserError(ExitCode.INCOMPLETE, f"{said}: `artifactfs status {shell_word(point)}` says why; try again")


def _owners(path: str) -> str:
    """Return what to say to somebody whose mount that is not."""
    mount = table.innermost(path)
    if mount is None or mount.user is None:
        return f"{path} says that only to the user who mounted it: `sudo -u USER artifactfs …`"
    way = "sudo" if mount.user_id == 0 else f"sudo -u {shell_word(mount.user)}"
    if mount.allow_other:
        root_too = "" if mount.user_id == 0 else ", and to root"
    else:
        # The kernel's own rule: who mounted gets in, and nobody else.
        root_too = ", and not to root either" if os.geteuid() == 0 else ""
    return f"{mount.point} says that only to {mount.user}, who mounted it{root_too}: `{way} artifactfs …`"


def _refused(number: int, where: str) -> UserError:
    point = where.partition("/.artifactfs/")[0]
    if number == errno.EACCES:  # the kernel's, for the whole mount or for what is private in it
        return UserError(ExitCode.NO_ANSWER, _owners(point))
    if number in (errno.ENOENT, errno.ENOTDIR):
        return UserError(ExitCode.NO_ANSWER, f"{point} is served by an artifactfs that does not know this: mount again")
    return NoAnswer(f"{point} did not answer: {os.strerror(number)}; see its log")
