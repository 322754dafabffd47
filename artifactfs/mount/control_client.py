"""Asks a mount from outside, for `artifactfs status`, `refresh` and `info`, and finds out whether it is dead.

A mount may be wedged, stopped or dead; a process that touches it then hangs where no signal may reach it. So only a
child process touches it (ask_child.py), which is left behind if it does not answer in time.
"""

import contextlib
import errno
import json
import os
import subprocess
from dataclasses import dataclass

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import ask_child, mount_owner, mount_table
from artifactfs.util.escaping import shell_word

# For a report, which the mount has in memory, on a busy machine.
_REPORT_S = 5.0
# For a command, whose path may need several requests: more than the longest wait of an ordinary mount.
_COMMAND_S = 40.0
# A dead mount answers a probe at once.
_PROBE_S = 2.0
_END_S = 1.0
# An answer is some KiB, of a run with many metrics a few MiB. The mount of another user may send one without an end.
_MAX_BYTES = 64 << 20
_GONE = (errno.ENOTCONN, errno.ECONNABORTED)
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_IN_A_MOUNT = "give a path in a mount of artifactfs"


@dataclass(frozen=True)
class Answer:
    """The answer of a mount, and its mount point."""

    point: str
    text: str


class NoAnswer(UserError):
    """A mount does not answer, or its process is gone (`dead`)."""

    def __init__(self, fact: str, fix: str = "", *, command: str = "", dead: bool = False) -> None:
        super().__init__(ExitCode.NO_ANSWER, fact, fix, command=command)
        self.dead = dead


class NoSuchPlace(UserError):
    """A path in a live mount is not there."""


class NoSuchCommand(UserError):
    """A mount is served by another version of artifactfs, which does not know a command."""


def my_mounts() -> list[mount_table.Mount]:
    """Return the mounts of artifactfs that this user has made, each place once.

    In a user namespace the result may hold mounts of another user with the same id outside: they raise NotMountOwner.
    """
    ids = mount_owner.my_ids()
    by_point = {mount.point: mount for mount in mount_table.mounts() if mount.is_ours}
    return [mount for mount in by_point.values() if mount.user_id in ids]


def is_dead(mount: mount_table.Mount) -> bool:
    """Whether the process that served a FUSE mount is gone; a mount that does not answer in time is busy, not dead.

    By statvfs, which fails for a dead mount with ENOTCONN. For `stat`, the kernel may answer from its cache.
    """
    output = _run_child(ask_child.PROBE, mount.point, _PROBE_S)
    return json.loads(output or b"{}").get("errno") in _GONE


def check_answers(mount: mount_table.Mount) -> None:
    """Raise NoAnswer for a FUSE mount whose process is stopped: whatever touches it would wait without an end."""
    if _run_child(ask_child.PROBE, mount.point, _REPORT_S) is None:
        raise _late(mount.point, _REPORT_S)


def check_is_path(path: str) -> None:
    """Raise UserError for text that can be no path."""
    if not path or "\0" in path:
        raise UserError(ExitCode.NOT_MOUNTED, f"{path!r} is not a path", _IN_A_MOUNT)


def ask(name: str, path: str, *, parent_too: bool = False) -> Answer:
    """Read the report `name` of the mount that contains `path`, or send it a command about `path`. Raises UserError.

    `parent_too`: if the path does not exist, use the directory that would contain it.
    """
    check_is_path(path)
    point = point_of(path)
    timeout_s = _COMMAND_S
    if name in ask_child.REPORTS:
        timeout_s = _REPORT_S
        # A report is made from memory; resolving a path in the mount may wait for the service.
        path = point or path
    elif point is not None:
        # This detects a stopped process soon; the command itself may take longer.
        ask("status.json", point)
    output = _run_child(name, path, timeout_s, parent_too=parent_too)
    if output is None:
        raise _late(path, timeout_s)
    return _answer(path, output)


def _late(path: str, timeout_s: float) -> NoAnswer:
    fact = f"the mount of {path} does not answer within {timeout_s:g} s; its process may be stopped"
    return NoAnswer(fact, "its log shows what it waits for; `artifactfs umount` ends it")


def _run_child(name: str, path: str, timeout_s: float, *, parent_too: bool = False) -> bytes | None:
    """Return the output of ask_child.py; None if it takes longer. The kernel may hold the child in a system call."""
    process = subprocess.Popen(
        ["/proc/self/exe", "-I", "-S", ask_child.__file__, name, path, "yes" if parent_too else "no", str(_MAX_BYTES)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.kill()
            # Left behind, it ends as soon as the mount answers or ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)


def _answer(path: str, output: bytes) -> Answer:
    """Return the answer in the output of ask_child.py. Raises UserError."""
    try:
        reply = json.loads(output)
    except ValueError:
        raise NoAnswer(f"the query of the mount of {path} failed", "try again") from None
    if "answer" in reply:
        return Answer(reply["point"], reply["answer"])
    if "outside" in reply:
        raise _outside(path)
    if "hidden" in reply:
        raise UserError(ExitCode.NOT_MOUNTED, f"the mount point of {path} is hidden by another mount", "unmount that")
    if "part" in reply:
        part = reply["part"]
        fact = f"{part} is a bind mount of a part of a mount that has no other mount point, so it has no reports"
        command = f"artifactfs umount {shell_word(part)}"
        raise NoAnswer(f"{fact}; its process still runs", f"`{command}` ends both", command=command)
    raise _failure(path, reply["errno"] or errno.EIO, reply["path"], reply.get("inside"))


def _failure(path: str, number: int, failing: str, inside: str | None) -> UserError:
    """Return the error for an errno. `failing`: the path that failed; `inside`: the mount point around `path`."""
    inner = mount_table.innermost(path)
    is_ours = inner is not None and inner.is_ours
    if number in (*_GONE, errno.ENODEV) and (is_ours or inner is None or inner.point == "/"):
        return process_gone(path)
    point, in_control_dir, _ = failing.partition("/.artifactfs/")
    if inside is not None and not in_control_dir:
        return unreadable(number, path, inside)
    if number == errno.EACCES and (in_control_dir or is_ours):
        return mount_owner.access_denied(point, mount_table.innermost(point))
    if in_control_dir and number in _MISSING:
        fact = f"{point} is served by an artifactfs without this command"
        return NoSuchCommand(ExitCode.NO_ANSWER, fact, "mount again")
    if in_control_dir:
        return NoAnswer(f"{point} did not answer: {os.strerror(number)}", "see its log")
    if number in (*_MISSING, errno.ESTALE):
        return UserError(ExitCode.NOT_MOUNTED, f"there is no {path}", _IN_A_MOUNT)
    return UserError(ExitCode.NOT_MOUNTED, os.strerror(number), subject=path)


def point_of(path: str) -> str | None:
    """Return the mount point of the mount of artifactfs that a path is in by its text; None if there is none."""
    try:
        inner = mount_table.innermost(path)
    except OSError:
        return None  # the working directory is deleted
    return inner.point if inner is not None and inner.is_ours else None


def run_in_mount(path: str) -> str:
    """Return MOUNT/runs/RUN/… for RUN/… where the working directory is in a mount and has no RUN; else the path."""
    # Not for each Tab: this imports the tree.
    from artifactfs.tree.safe_names import parse_id

    run, _, _ = path.partition("/")
    if parse_id(os.fsencode(run)) is None or (point := point_of(path)) is None or os.path.lexists(run):
        return path
    return os.path.join(point, "runs", path)


def _outside(path: str) -> UserError:
    """Return the error for a path that is in no mount of artifactfs."""
    try:
        place = mount_table.resolve(path)
    except UserError as error:
        return error
    stack = [mount for mount in mount_table.mounts() if mount.point == place]
    if any(mount.is_ours for mount in stack):
        above = "another mount above it" if stack[-1].is_ours else f"a {stack[-1].fstype} mount"
        fact = f"the mount at {place} is hidden by {above}"
        return UserError(ExitCode.NOT_MOUNTED, fact, "`umount` that first; `findmnt` shows it")
    fact = f"{path} is in no mount of artifactfs"
    return UserError(ExitCode.NOT_MOUNTED, fact, "`artifactfs status` lists the mounts")


def process_gone(path: str) -> NoAnswer:
    """Return the error for a dead mount."""
    return NoAnswer(f"the process of the mount at {path} is gone", "`artifactfs umount` it and mount again", dead=True)


def unreadable(number: int, path: str, point: str) -> UserError:
    """Return the error for a path in a live mount whose lookup fails."""
    if number in _MISSING:
        fix = "check its number or name; `artifactfs refresh` its directory, if it is new"
        return NoSuchPlace(ExitCode.INCOMPLETE, f"there is no {path} in the mount at {point}", fix)
    fix = f"`artifactfs status {shell_word(point)}` shows the cause; try again"
    return UserError(ExitCode.INCOMPLETE, os.strerror(number), fix, subject=path)
