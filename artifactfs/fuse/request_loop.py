"""Receiving the kernel's requests: the binding's loop, which goes on where the system has no memory for it.

Each of the binding's workers waits for a request, takes it and answers it, with a buffer of its own of 1 MiB. Where no
memory can be had for the buffer, the binding's worker raises, and with it ends the mount (pyfuse3 3.5,
`_session_loop`). What is hard: that request may be lost by then. As root, libfuse has moved it into a pipe of its own
(splice), and takes what is in there for the next one. So a worker without a buffer takes no request before there is
memory for one. It stays in the kernel's queue, for the workers that have a buffer.

The workers are wrapped one by one. To run the whole loop again instead would cancel every request in flight, and lose
the buffers of all workers at a time when there is no memory.
"""

import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pyfuse3
import trio

from artifactfs.fuse.barging_lock import BargingLock
from artifactfs.util.headroom import for_worker
from artifactfs.util.no_checkpoint import no_checkpoint

log = logging.getLogger(__name__)

# These pass by themselves, when something gives its memory or descriptors back.
_PASSING = frozenset({errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
# How long a worker waits that gets no memory. Arbitrary.
_PAUSE_S = 0.1

Worker = Callable[[trio.Nursery, int, int], Awaitable[None]]


class RequestLoop:
    """The workers of one mount. `has_room`: whether one may take a request without a buffer."""

    def __init__(self, has_room: Callable[[], bool] = for_worker) -> None:
        self._has_room = has_room
        self._binding = vars(pyfuse3)
        self._worker: Worker = self._binding["_session_loop"]
        self._wait_readable: Callable[[], Awaitable[bool]] = self._binding["_wait_fuse_readable"]
        self._with_buffer: set[trio.lowlevel.Task] = set()
        self._pause_ends = 0.0

    async def main(self, idle_workers: int, max_workers: int) -> None:
        """Answer requests until the mount ends: `pyfuse3.main`, whose workers survive a lack of memory."""
        # The binding finds these by name, each time; its lock is made by the first worker.
        own_trio = self._binding.get("trio")
        with_lock = SimpleNamespace(**vars(trio) | {"Lock": BargingLock})
        self._binding.update(_session_loop=self._work, _wait_fuse_readable=self._wait, trio=with_lock)
        try:
            await pyfuse3.main(idle_workers, max_workers)
        finally:
            self._binding.update(_session_loop=self._worker, _wait_fuse_readable=self._wait_readable, trio=own_trio)

    async def _work(self, nursery: trio.Nursery, idle_workers: int, max_workers: int) -> None:
        """Be a worker, and begin again where it fails for a lack that passes."""
        task = trio.lowlevel.current_task()
        try:
            while True:
                # A worker that fails has started another, where no other waited for requests: it must not fail at once.
                await trio.sleep_until(self._pause_ends)
                try:
                    await self._worker(nursery, idle_workers, max_workers)
                except (OSError, MemoryError) as error:
                    if isinstance(error, OSError) and error.errno not in _PASSING:
                        raise
                    self._with_buffer.discard(task)
                    self._pause(str(error) or "MemoryError")
                else:
                    return
        finally:
            self._with_buffer.discard(task)

    async def _wait(self) -> bool:
        """Wait for a request that can be taken. Returns False where the mount ends."""
        task = trio.lowlevel.current_task()
        while await self._wait_readable():
            if self._try_take(task):
                return True
            self._pause("no memory for a buffer")
            await trio.sleep_until(self._pause_ends)
        return False

    @no_checkpoint
    def _try_take(self, task: trio.lowlevel.Task) -> bool:
        """Take room for a worker's buffer, unless it has that already. Returns False where there is none."""
        if task not in self._with_buffer and not self._has_room():
            return False
        self._with_buffer.add(task)
        return True

    def _pause(self, reason: str) -> None:
        self._pause_ends = trio.current_time() + _PAUSE_S
        # The log may need memory, too.
        with contextlib.suppress(MemoryError):
            log.warning("requests wait until the system has memory again to receive them: %s", reason)
