"""The names that the kernel remembers, dropped before their time: after a refresh, so that the next look asks us (3.3).

Linux 6.16 and newer have a notification that makes every name of a mount old at once (FUSE_NOTIFY_INC_EPOCH): 16 bytes
to the device, no lock, nothing that waits. The binding does not have it. Without it, names are invalidated one by one;
that waits for whoever looks something up in the directory above, and keeps others from it (pitfalls.md), so it is done
in a thread, and for the few names under which everything else is. There, what somebody holds open or is in keeps its
name until the time that the kernel was told runs out.
"""

import errno
import logging
import os
import select
import struct
from collections.abc import Callable, Iterable

import pyfuse3
import trio

from artifactfs.errors import NoThread
from artifactfs.util import threads

log = logging.getLogger(__name__)

_DEVICE = "/dev/fuse"
# struct fuse_out_header (linux/fuse.h): length, code, and 0 for a notification.
_HEADER = struct.Struct("=IiQ")
_INC_EPOCH = 8
# How long the old way is waited for; it goes on when nobody waits.
_WAIT_S = 5.0

# A name in a directory: that one's inode number, and the name.
Name = tuple[int, bytes]


class KernelDentries:
    """What the kernel remembers of one mount's names. `invalidate`: the old way, pyfuse3's own but for tests."""

    def __init__(self, invalidate: Callable[[int, bytes], None] = pyfuse3.invalidate_entry) -> None:
        self._invalidate = invalidate
        self._thread = trio.CapacityLimiter(1)
        self._ended = False

    @property
    def is_stuck(self) -> bool:
        """Whether a thread waits in the kernel: then who waits for an answer is to get one before the mount ends."""
        return self._thread.borrowed_tokens > 0

    def end(self) -> None:
        """The mount is about to be closed: nothing more is told to the kernel."""
        self._ended = True

    async def drop(self, names: Iterable[Name]) -> bool:
        """Have the kernel forget these names and what is below them; returns whether it has.

        What it remembers besides may go, too.
        """
        if self._ended or _new_epoch():
            return True
        try:
            with trio.move_on_after(_WAIT_S) as waited:
                for parent, name in names:
                    await threads.run(self._drop, parent, name, limiter=self._thread, abandon_on_cancel=True)
        except NoThread as error:
            log.warning("%s; the kernel keeps names for the time that it was told", error)
            return False
        return not waited.cancelled_caught

    def _drop(self, parent: int, name: bytes) -> None:
        if self._ended:
            return
        try:
            self._invalidate(parent, name)
        except OSError as error:
            if error.errno != errno.ENOENT:  # it did not know it
                log.info("the kernel did not drop a name: %s", error)


def is_connected() -> bool:
    """Whether the kernel still has the mount that this process serves, at whatever place."""
    device = _device()
    if device is None:
        return False
    poll = select.poll()
    poll.register(device, 0)
    # The kernel's word for a connection whose last mount is gone.
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def _new_epoch() -> bool:
    """Make every name old that the kernel remembers; returns whether it can do that."""
    device = _device()
    if device is None:
        return False
    try:
        os.write(device, _HEADER.pack(_HEADER.size, _INC_EPOCH, 0))
    except OSError as error:
        log.debug("the kernel has no epochs: %s", error)  # EINVAL before 6.16
        return False
    return True


def _device() -> int | None:
    """Return the descriptor on which this process serves its mount. Looked for each time: a number comes again."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _DEVICE:
                return int(name)
        except OSError:
            continue  # the one that listed them
    return None
