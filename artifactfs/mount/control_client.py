"""Asking somebody's mount from outside: what `artifactfs status`, `refresh` and `info` do.

A mount may be wedged, stopped or dead, and then whoever touches it hangs where no signal may reach him. So it is only
ever touched by a child process, which is left behind when it does not answer in time. The child finds the mount that a
path is in by the kernel's own account of it, whatever links and bind mounts led there; the inode number is what the
path is called in the order (tree/control_dir.py).
"""

import errno
import json
import os
import subprocess
from collections.abc import Mapping

import msgspec

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import mount_owner, mount_table
from artifactfs.util.escaping import shell_word

# For what a mount has at hand, on a busy machine.
REPORT_S = 5.0
# For what may need a few looks at the service on the way to a path: more than the longest wait of an ordinary mount.
ORDER_S = 40.0
_END_S = 1.0
# An answer is some KiB long, that about a run with many metrics a few MiB; a mount of another user's may never end one.
_MOST_BYTES = 64 << 20
# What is about the whole mount, whichever path in it was given.
_REPORTS = frozenset({"status.json", "metrics", "errors"})

# Prints one JSON object: the answer and whose it is; or the errno, what could not be read, and the mount that it is in.
_CHILD = r"""
import json, os, sys
order, path, parent_too, most_bytes = sys.argv[1], sys.argv[2], sys.argv[3] == "yes", int(sys.argv[4])
def say(**told):
    print(json.dumps(told)); sys.exit()
def places_of(found):
    # As mount/mount_table.py reads it: rows end with a line feed, fields with a space, and nothing else.
    device = b"%d:%d" % (os.major(found.st_dev), os.minor(found.st_dev))
    places = []
    with open("/proc/self/mountinfo", "rb") as table:
        for row in table.read().split(b"\n"):
            fields = row.split(b" ")
            if fields[2:3] == [device] and b"-" in fields[6:]:
                if fields[fields.index(b"-", 6):][1:2] == [b"fuse.artifactfs"]:
                    parts = fields[4].split(b"\\")
                    point = parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])
                    places.append((fields[3], os.fsdecode(point)))
    # Whole ones first: a bind mount of a part has no .artifactfs.
    return sorted(places, key=lambda place: place[0] != b"/")
def around(path):
    # From the top, so that what fails is asked for once more and not once for each name below it.
    found = None
    try:
        above = os.path.dirname(os.path.abspath(path))
        for end in (*(at for at, each in enumerate(above) if at and each == "/"), len(above)):
            found = os.stat(above[:end])
    except OSError:
        pass
    places = places_of(found) if found is not None else []
    return places[0][1] if places else None
try:
    try:
        fd = os.open(path, os.O_PATH)
    except FileNotFoundError:
        if not parent_too:
            raise
        path = os.path.dirname(os.path.abspath(path))
        fd = os.open(path, os.O_PATH)
    found = os.fstat(fd)
    places = places_of(found)
    if not places:
        say(outside=True)
    if places[0][0] != b"/":
        say(part=places[0][1])
    for root, point in places:
        if root != b"/":
            continue
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
        while len(answer) <= most_bytes and (piece := file.read(1 << 20)):
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


class NotOurs(UserError):
    """A mount that the kernel keeps from this user: it is another's."""


def my_mounts() -> list[mount_table.Mount]:
    """Return the mounts of artifactfs that this user has made, each place once.

    In a user namespace, those of another user may be among them, who has the same number outside: they are `NotOurs`.
    """
    found = {mount.point: mount for mount in mount_table.mounts() if mount.fstype == mount_table.FUSE_TYPE}
    ids = mount_owner.my_ids()
    return [mount for mount in found.values() if mount.user_id in ids]


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
        ["/proc/self/exe", "-I", "-S", "-c", _CHILD, order, path, "yes" if parent_too else "no", str(_MOST_BYTES)],
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
        raise _outside(path)
    if isinstance(part := told.get("part"), str):
        raise NoAnswer(
            f"{part} is a bind mount of a part of a mount that is at no other place, so it cannot be asked; "
            f"its process serves it on: `artifactfs umount {shell_word(part)}` ends both"
        )
    if "hidden" in told:
        raise UserError(ExitCode.NOT_MOUNTED, f"the mount point of {path} is hidden by another mount: unmount that")
    number, where = told.get("errno"), str(told.get("path"))
    number = number if isinstance(number, int) else errno.EIO
    if number in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV) and _type_at(path) in (mount_table.FUSE_TYPE, None):
        raise process_gone(path)
    inside = told.get("inside")
    if isinstance(inside, str) and "/.artifactfs/" not in where:
        raise unreadable(number, path, inside)
    if "/.artifactfs/" in where or (number == errno.EACCES and _type_at(path) == mount_table.FUSE_TYPE):
        raise _refused(number, where)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        raise UserError(ExitCode.NOT_MOUNTED, f"there is no {path}: give a path in a mount of artifactfs")
    raise UserError(ExitCode.NOT_MOUNTED, f"{path}: {os.strerror(number)}")


def point_of(path: str) -> str | None:
    """Return the mount point of the mount of ours that a path is in by its text; None where that tells nothing."""
    try:
        inner = mount_table.innermost(path)
    except OSError:
        return None  # where we stand is gone
    return inner.point if inner is not None and inner.fstype == mount_table.FUSE_TYPE else None


def _outside(path: str) -> UserError:
    """Return what to say of a path that the kernel finds in no mount of ours."""
    try:
        place = mount_table.resolve(path)
    except UserError as error:
        return error
    around = [mount for mount in mount_table.mounts() if mount.point == place]
    if any(mount.fstype == mount_table.FUSE_TYPE for mount in around):
        above = (
            f"a {around[-1].fstype} mount" if around[-1].fstype != mount_table.FUSE_TYPE else "another mount above it"
        )
        said = f"the mount at {place} is hidden by {above}: `umount` that first; `findmnt` shows it"
        return UserError(ExitCode.NOT_MOUNTED, said)
    return UserError(ExitCode.NOT_MOUNTED, f"{path} is in no mount of artifactfs: `artifactfs status` lists the mounts")


def _type_at(path: str) -> str | None:
    """Return the type of the mount that a path is in, by its text and the mount table; None for the root's own."""
    inner = mount_table.innermost(path)
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


def _refused(number: int, where: str) -> UserError:
    point = where.partition("/.artifactfs/")[0]
    if number == errno.EACCES:  # the kernel's, for the whole mount or for what is private in it
        return NotOurs(ExitCode.NO_ANSWER, mount_owner.only_owner(point, mount_table.innermost(point)))
    if number in (errno.ENOENT, errno.ENOTDIR):
        return UserError(ExitCode.NO_ANSWER, f"{point} is served by an artifactfs that does not know this: mount again")
    return NoAnswer(f"{point} did not answer: {os.strerror(number)}; see its log")
