"""`artifactfs umount`: ends a mount from outside, and reports what keeps its process alive (docs/semantics.md 5.6).

A file system can be mounted at several places: by `mount --bind`, whole or in part, and after `mount --move` at another
place than it was made at. Its process serves all of them, and ends with the last one.
"""

import contextlib
import os
import signal
from collections.abc import Iterator

from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.mount import control_client, mount_owner, mount_table, registry
from artifactfs.mount.mount_table import Mount
from artifactfs.mount.registry import Holder
from artifactfs.util.escaping import shell_word

# How long the serving process may take, by contract, before it is ended by force.
_WAIT_S = 3.0
# More are counted, not named.
_MAX_NAMED = 3


def point_of(path: str) -> str:
    """Return the mount point of the mount of artifactfs that a path is in; of any other path, itself resolved.

    By its text where that says so: a wedged mount is not touched. Raises UserError.
    """
    if not path:
        raise UserError(ExitCode.NOT_MOUNTED, "the mount point is an empty argument")
    if (point := control_client.point_of(path)) is not None:
        return point
    place = mount_table.resolve(path)
    return control_client.point_of(place) or place


def end_all() -> Iterator[tuple[str, UserError | None]]:
    """End all mounts of this user, the innermost first; yields each mount point, and its error."""
    left = control_client.my_mounts()[::-1]
    while left:
        mount = left.pop(0)
        try:
            if any(other.device == mount.device for other in left):
                # Its process ends with the last of its places.
                _unmount(mount, None)
            else:
                end(mount.point)
        except UserError as error:
            yield mount.point, error
        else:
            yield mount.point, None


def end(point: str) -> None:
    """End the mount at a resolved mount point, lazily if files are open, and wait until its process is gone.

    Raises UserError.
    """
    mount = _find(point)
    holder, untrusted = None, None
    try:
        # Before the unmount: only then does the process serve this mount.
        holder = registry.find(mount.point, mount.device)
    except registry.UntrustedEntry as error:
        (untrusted,) = error.args
    with holder or contextlib.nullcontext():
        others = _others(mount, holder) if holder is not None else []
        _unmount(mount, holder)
        if untrusted is not None:
            fact = f"{mount.point} is unmounted, but whether its process has ended is not known: {untrusted.fact}"
            raise UserError(ExitCode.UMOUNT_FAILED, fact, untrusted.fix)
        if holder is not None:
            _wait(mount, others, holder)


def still_served(point: str) -> UserError:
    """Return the error for a mount at `point` whose entry another process holds: which, and what keeps it alive."""
    code = ExitCode.ALREADY_MOUNTED
    holder = registry.find(point)
    if holder is None:
        return UserError(code, f"another artifactfs has just ended at {point}", "try again")
    with holder:
        name = f"process {holder.pid}" if holder.pid else "a process that is not visible here"
        places = _places(holder.entry.device, holder) if holder.entry is not None and holder.entry.device else []
        if not places:
            fix = f"try again, or `kill {holder.pid}`" if holder.pid else "try again"
            return UserError(code, f"{name} served a mount at {point} and has not ended yet", fix)
        fact = f"{name} still serves the mount that was made at {point}, now {_where(places)}"
        top = mount_table.mounted_at(places[0].point)
        if top is not None and top.device != places[0].device:
            fact += f", hidden by a {top.fstype} mount"
            return UserError(code, fact, f"`umount {shell_word(top.point)}` that first")
        command = _command(places[0], holder)
        return UserError(code, fact, f"end that first: `{command}`", command=command)


def _find(point: str) -> Mount:
    """Return the mount of artifactfs on top at a place. Raises UserError if there is none."""
    stack = [mount for mount in mount_table.mounts() if mount.point == point]
    if stack and stack[-1].is_ours:
        return stack[-1]
    if any(mount.is_ours for mount in stack):
        fact = f"the mount at {point} is hidden by a {stack[-1].fstype} mount at the same place"
        raise UserError(ExitCode.NOT_MOUNTED, fact, "`umount` that first")
    if not stack or not stack[-1].fstype.startswith("fuse"):
        fact = f"nothing of artifactfs is mounted at {point}"
        raise UserError(ExitCode.NOT_MOUNTED, fact, "`artifactfs status` lists your mounts")
    fact = f"{point} is a {stack[-1].fstype} mount, not one of artifactfs"
    raise UserError(ExitCode.NOT_MOUNTED, fact, "end it with its own program")


def _unmount(mount: Mount, holder: Holder | None) -> None:
    point = mount.point
    if mount_table.unmount(point, lazy=False) is None or (reason := mount_table.unmount(point, lazy=True)) is None:
        return
    # fusermount3 has reasons of its own, a missing /etc/mtab for one; the process can unmount itself.
    if holder is not None and holder.send(signal.SIGTERM) and holder.has_ended(_WAIT_S):
        return
    # fusermount3 only says that it has no such mount of this user's.
    if (denied := mount_owner.unmount_denied(mount)) is not None:
        reason = Notice(denied)
    raise UserError(ExitCode.UMOUNT_FAILED, f"cannot unmount {point}: {reason.fact}", reason.fix)


def _wait(mount: Mount, others: list[Mount], holder: Holder) -> None:
    """Wait for the end of the process that served a mount; end it by force if it is late.

    `others`: the other places of the file system. (The device number of an unmounted one may soon be used again.)
    """
    point, unmounted = mount.point, f"{mount.point} is unmounted, but"
    left = _places(mount.device, holder) if others else []
    if places := [place for place in others if place in left]:
        made_at = holder.entry.mountpoint if holder.entry is not None else None
        is_copy = _is_elsewhere(holder)
        if any(
            place.root == "/" and (mount.root != "/" or (made_at == place.point and (is_copy or place.point != point)))
            for place in places
        ):
            return  # only a bind mount of it is unmounted, or its copy in this mount namespace
        fact = f"{unmounted} process {holder.pid} still serves the same mount {_where(places)}"
        command = _command(places[0], holder)
        raise UserError(ExitCode.UMOUNT_FAILED, fact, f"end that, too: `{command}`", command=command)
    if holder.has_ended(_WAIT_S) or (holder.send(signal.SIGKILL) and holder.has_ended(_WAIT_S)):
        return
    fact = f"{unmounted} {f'process {holder.pid}' if holder.pid else 'its process'} does not end"
    if (refusal := holder.refusal) is None:
        raise UserError(ExitCode.UMOUNT_FAILED, fact)
    raise UserError(ExitCode.UMOUNT_FAILED, f"{fact}, and is not ended by force: {refusal.fact}", refusal.fix)


def _places(device: str, holder: Holder) -> list[Mount]:
    """Return the places of a file system as its process sees them: it ends with the last of these."""
    try:
        return mount_table.places_of(device, holder.pid or None)
    except OSError:
        return []  # the process is gone, or its mount table is not readable


def _others(mount: Mount, holder: Holder) -> list[Mount]:
    """Return the places that will be left of a file system, as its process sees them, when `mount` is unmounted."""
    places = _places(mount.device, holder)
    if mount in places and not _is_elsewhere(holder):
        # One of them: it may be bound over itself.
        places.remove(mount)
    return places


def _is_elsewhere(holder: Holder) -> bool:
    """Whether a process is in another mount namespace, where a mount with the same row is another mount."""
    try:
        return not os.path.samefile(f"/proc/{holder.pid or 'self'}/ns/mnt", "/proc/self/ns/mnt")
    except OSError:
        return False  # it is gone, or is another user's: then it is not ended, either


def _where(places: list[Mount]) -> str:
    named = [f"at {at.point}" + (f" (its {at.root})" if at.root != "/" else "") for at in places[:_MAX_NAMED]]
    more = len(places) - len(named)
    return " and ".join(named) + (f" and at {more} more places" if more else "")


def _command(place: Mount, holder: Holder) -> str:
    """Return the command that ends a mount at a place, which may be in the mount namespace of its process alone."""
    if holder.pid and place not in mount_table.places_of(place.device):
        return f"nsenter -m -t {holder.pid} umount {shell_word(place.point)}"
    return f"artifactfs umount {shell_word(place.point)}"
