"""Invalidates the kernel's dentries after a refresh, so that the next lookup reaches the mount (3.3), and attributes.

Linux 6.16 and newer have a notification that makes every name of a mount old at once (FUSE_NOTIFY_INC_EPOCH): 16 bytes
to the device, no lock, nothing that waits. The binding does not have it. Without it, names are invalidated one by one;
that waits for lookups in the parent directory, and blocks others (pitfalls.md), so it is done in a thread, and for the
few names that everything else is below. There, a name that is in use stays valid until its entry timeout ends.

Attributes and pages are invalidated inode by inode: that takes no lock of a directory, and the kernel then calls
`getattr` and `read`. For pages it waits for reads in flight.
"""

import errno
import itertools
import logging
import os
import select
import struct
from collections.abc import Callable, Iterable
from functools import partial

import pyfuse3
import trio

from artifactfs.errors import NoThread
from artifactfs.util import threads

log = logging.getLogger(__name__)

_DEVICE = "/dev/fuse"
# struct fuse_out_header (linux/fuse.h): length, code, and 0 for a notification.
_HEADER = struct.Struct("=IiQ")
_INC_EPOCH = 8
# How long a caller waits for the old way, which then goes on without a waiter.
_WAIT_S = 5.0

# Inodes whose attributes are invalidated in one turn of the thread.
_SLICE = 1_000

# A name in a directory: that one's inode number, and the name.
Name = tuple[int, bytes]


class KernelDentries:
    """The dentries of one mount. `invalidate`: the old way; it and `invalidate_inode`: pyfuse3's, or fakes in tests."""

    def __init__(
        self,
        invalidate: Callable[[int, bytes], None] = pyfuse3.invalidate_entry,
        invalidate_inode: Callable[[int, bool], None] = pyfuse3.invalidate_inode,
    ) -> None:
        self._invalidate = invalidate
        self._invalidate_inode = invalidate_inode
        self._thread = trio.CapacityLimiter(1)
        self._ended = False

    @property
    def is_stuck(self) -> bool:
        """Whether a thread waits in the kernel. Then calls that wait must be answered before the mount ends."""
        return self._thread.borrowed_tokens > 0

    def end(self) -> None:
        """Send nothing more to the kernel: the mount is about to be closed."""
        self._ended = True

    async def drop(self, names: Iterable[Name]) -> bool:
        """Invalidate these names and everything below them; returns whether that is done.

        Other names may be invalidated too.
        """
        if self._ended or _new_epoch():
            return True
        try:
            with trio.move_on_after(_WAIT_S) as waited:
                for parent, name in names:
                    await threads.run(self._drop, parent, name, limiter=self._thread, abandon_on_cancel=True)
        except NoThread as error:
            log.warning("%s; the kernel keeps names until their entry timeout", error)
            return False
        return not waited.cancelled_caught

    async def drop_attributes(self, inodes: Iterable[int]) -> None:
        """Invalidate the attributes of these inodes, and none of their pages."""
        await self._drop_of(inodes, attributes_only=True)

    async def drop_pages(self, inodes: Iterable[int]) -> bool:
        """Invalidate the pages and the attributes of these inodes; returns whether that is done.

        It waits for reads in flight, of mappings too.
        """
        with trio.move_on_after(_WAIT_S):
            return await self._drop_of(inodes, attributes_only=False)
        return False

    async def drop_account(self, names: Iterable[Name], inodes: Iterable[int]) -> None:
        """Invalidate names and what is below them, and all that the kernel has of these inodes, however long it takes.

        They are of an account that is used no more (docs/semantics.md 6.3).
        """
        have_names_gone = await self.drop(names)
        if await self._drop_of(inodes, attributes_only=False) and have_names_gone:
            log.info("the kernel has dropped what it had of the account before")
        else:
            log.warning("the kernel may show what it has of the account before until that is opened again")

    async def _drop_of(self, inodes: Iterable[int], *, attributes_only: bool) -> bool:
        rest = iter(inodes)
        try:
            while part := list(itertools.islice(rest, _SLICE)):
                call = partial(self._invalidate_inodes, part, attributes_only=attributes_only)
                await threads.run(call, limiter=self._thread, abandon_on_cancel=True)
        except NoThread as error:
            log.warning("%s; the kernel keeps attributes and pages until their timeout, or the next open", error)
            return False
        return True

    def _invalidate_inodes(self, inodes: list[int], *, attributes_only: bool) -> None:
        for inode in inodes:
            if self._ended:
                return
            try:
                self._invalidate_inode(inode, attributes_only)
            except OSError as error:
                if error.errno != errno.ENOENT:  # the kernel has forgotten the inode
                    log.info("the kernel did not drop attributes or pages: %s", error)

    def _drop(self, parent: int, name: bytes) -> None:
        if self._ended:
            return
        try:
            self._invalidate(parent, name)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the kernel had no such dentry
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
