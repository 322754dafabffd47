"""Ending a mount from outside: `artifactfs umount`; and what keeps the process of a mount alive (docs/semantics.md
5.6).

A file system can be mounted at several places: by `mount --bind`, whole or in part, and after `mount --move` at another
than it was made at. Its process serves them all, and ends with the last one.
"""

import contextlib
import signal

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import mount_owner, mount_table, registry
from artifactfs.mount.mount_table import Mount
from artifactfs.mount.registry import Holder
from artifactfs.util.escaping import shell_word

# How long the serving process may take, by contract, before it is ended by force.
_WAIT_S = 3.0
# More are counted, not named.
_MOST_NAMED = 3


def end(path: str) -> None:
    """End the mount at `path`, lazily where files are open, and wait until its process is gone. Raises UserError."""
    if not path:
        raise UserError(ExitCode.NOT_MOUNTED, "the mount point is an empty argument")
    mounted = _ours(mount_table.resolve(path))
    holder, refused = None, ""
    try:
        # Before the unmount: then it is seen to serve this mount.
        holder = registry.find(mounted.point, mounted.device)
    except registry.Refused as error:
        refused = str(error)
    with holder or contextlib.nullcontext():
        others = _places(mounted.device, holder) if holder is not None else []
        if mounted in others:
            others.remove(mounted)
        _take_away(mounted, holder)
        if refused:
            said = f"{mounted.point} is unmounted, but whether its process has ended is not known: {refused}"
            raise UserError(ExitCode.UMOUNT_FAILED, said)
        if holder is not None:
            _wait(mounted, others, holder)


def still_served(point: str) -> UserError:
    """Return why nothing can be mounted at `point`: which process holds its entry, and what keeps that alive."""
    holder = registry.find(point)
    if holder is None:
        return UserError(ExitCode.ALREADY_MOUNTED, f"another artifactfs has just ended at {point}", "try again")
    with holder:
        named = f"process {holder.pid}" if holder.pid else "a process that cannot be seen from here"
        device = holder.entry.device if holder.entry is not None else None
        places = _places(device, holder) if device is not None else []
        if not places:
            fix = f"try again, or `kill {holder.pid}`" if holder.pid else "try again"
            fact = f"{named} served a mount at {point} and has not ended yet"
            return UserError(ExitCode.ALREADY_MOUNTED, fact, fix)
        fact = f"{named} still serves the mount that was made at {point}, now {_where(places)}"
        top = mount_table.mounted_at(places[0].point)
        if top is not None and top.device != places[0].device:
            fact += f", hidden by a {top.fstype} mount"
            return UserError(ExitCode.ALREADY_MOUNTED, fact, f"`umount {shell_word(top.point)}` that first")
        command = _command(places[0], holder)
        return UserError(ExitCode.ALREADY_MOUNTED, fact, f"end that first: `{command}`", command=command)


def _ours(point: str) -> Mount:
    """Return the mount of ours at a place. Raises UserError where there is none that can be ended by its place."""
    mounted = mount_table.mounted_at(point)
    if mounted is not None and mounted.fstype == mount_table.FUSE_TYPE:
        return mounted
    if mounted is not None and any(
        each.point == point and each.fstype == mount_table.FUSE_TYPE for each in mount_table.mounts()
    ):
        fact = f"the mount at {point} is hidden by a {mounted.fstype} mount at the same place"
        raise UserError(ExitCode.NOT_MOUNTED, fact, "`umount` that first")
    if mounted is None or not mounted.fstype.startswith("fuse"):
        raise UserError(
            ExitCode.NOT_MOUNTED, f"nothing of artifactfs is mounted at {point}", "see `mount -t fuse.artifactfs`"
        )
    fact = f"{point} is a {mounted.fstype} mount, not one of artifactfs"
    raise UserError(ExitCode.NOT_MOUNTED, fact, "end it with its own program")


def _take_away(mounted: Mount, holder: Holder | None) -> None:
    point = mounted.point
    if mount_table.unmount(point, lazy=False) is None or (reason := mount_table.unmount(point, lazy=True)) is None:
        return
    # fusermount3 has reasons of its own, a missing /etc/mtab for one; the process can unmount itself.
    if holder is not None and holder.send(signal.SIGTERM) and holder.has_ended(_WAIT_S):
        return
    # fusermount3 only says that it has no such mount of this user's.
    raise UserError(ExitCode.UMOUNT_FAILED, f"cannot unmount {point}: {mount_owner.only_owner_ends(mounted) or reason}")


def _wait(mounted: Mount, others: list[Mount], holder: Holder) -> None:
    """Wait for the end of the process that served a mount; end it by force where it is late.

    `others`: where the same file system was mounted besides. (A number of a device that is gone may come again soon.)
    """
    point = mounted.point
    left = _places(mounted.device, holder) if others else []
    if places := [place for place in others if place in left]:
        made_at = holder.entry.mountpoint if holder.entry is not None else None
        if any(place.root == "/" and (mounted.root != "/" or made_at == place.point != point) for place in places):
            return  # only a bind mount of it is unmounted
        fact = f"{point} is unmounted, but process {holder.pid} still serves the same mount {_where(places)}"
        command = _command(places[0], holder)
        raise UserError(ExitCode.UMOUNT_FAILED, fact, f"end that, too: `{command}`", command=command)
    if holder.has_ended(_WAIT_S):
        return
    if not holder.send(signal.SIGKILL):
        named = f"process {holder.pid}" if holder.pid else "its process"
        said = f"{point} is unmounted, but {named} does not end, and is not ended by force: {holder.doubt}"
        raise UserError(ExitCode.UMOUNT_FAILED, said)
    if not holder.has_ended(_WAIT_S):
        raise UserError(ExitCode.UMOUNT_FAILED, f"{point} is unmounted, but process {holder.pid} does not end")


def _places(device: str, holder: Holder) -> list[Mount]:
    """Return where a file system is mounted as its process sees it: with the last of these places it ends."""
    try:
        return mount_table.places_of(device, holder.pid or None)
    except OSError:
        return []  # the process is gone, or its mount table is not readable


def _where(places: list[Mount]) -> str:
    named = [
        f"at {place.point}" + (f" (its {place.root})" if place.root != "/" else "") for place in places[:_MOST_NAMED]
    ]
    more = len(places) - len(named)
    return " and ".join(named) + (f" and at {more} more places" if more else "")


def _command(place: Mount, holder: Holder) -> str:
    """Return the command that ends a mount at a place, which may be in the mount namespace of its process alone."""
    quoted = shell_word(place.point)
    if holder.pid and place not in mount_table.places_of(place.device):
        return f"nsenter -m -t {holder.pid} umount {quoted}"
    return f"artifactfs umount {quoted}"
