"""The own mount of a serving process in the mount table: found, watched, and detached at the end.

Hard: nothing but unmounting ends a mount (docs/semantics.md 5.5), so a mount table that cannot be read does not count
as one without the mount. And the mount may be at other places than it was made at: by `mount --bind`, `mount --move`.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import closing

import trio

from artifactfs.fuse import kernel_dentries
from artifactfs.mount import mount_table, registry

log = logging.getLogger(__name__)

# Between two reads of a mount table that changes all the time. Within the 3 s of docs/semantics.md 5.6.
_SETTLE_S = 0.05
# Between two attempts to read a mount table that cannot be read; each pause is twice the one before. Arbitrary.
_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 16.0


def find_own(point: str) -> mount_table.Mount | None:
    """Return the mount that was just made, and record its device in the registry; None if it cannot be found."""
    try:
        mount = next((each for each in reversed(mount_table.mounts()) if each.point == point and each.is_ours), None)
        if mount is not None:
            registry.record_device(point, mount.device)
    except Exception as error:
        log.warning("the mount table cannot be read: %r", error)
        return None
    return mount


def detach_elsewhere(point: str, mount: mount_table.Mount | None) -> bool:
    """Detach a mount that ends from all places but `point`, which would be dead; returns whether it is at `point`.

    Unmounting goes by path; a mount that another process has made at a place since stays.
    """
    if mount is None:
        return True
    try:
        if not kernel_dentries.is_connected():
            return False
        places = mount_table.places_of(mount.device)
        on_top = mount_table.mounted_at(point)
        for place in reversed(places):
            # A place below another one goes with that. A path through it would be a request to this process.
            if place.point == point or any(place.point.startswith(other.point + "/") for other in places):
                continue
            if (reason := mount_table.unmount(place.point, lazy=True)) is not None:
                log.warning("cannot unmount %s: %s", place.point, reason)
    except Exception as error:
        log.warning("the mount table cannot be read: %r", error)
        return True
    return on_top is not None and on_top.device == mount.device


async def end_when_unmounted(device: str, end: Callable[[], Awaitable[None]]) -> None:
    """End when the mount is gone from the mount table: with open files, a lazy unmount sends this process nothing."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await _unmounted(device)
            break
        except Exception as error:
            # No memory, no descriptor, no /proc.
            log.warning("the mount table cannot be read: %r; trying again in %g s", error, pause_s)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)
    log.info("no longer mounted: ending")
    await end()


async def _unmounted(device: str) -> None:
    """Wait until a device is gone from the mount table."""
    with closing(mount_table.Watch()) as watch:
        while True:
            there = watch.has(device)
            # Before Linux 5.8 a table that changes while it is read can lack a row.
            if not there and not watch.changed():
                return
            if there:
                await trio.lowlevel.wait_readable(watch.fileno())
            # If other mounts come and go all the time, one read is for many changes.
            await trio.sleep(_SETTLE_S)
            if there:
                watch.changed()
