"""Who waits for an answer, and whether a signal waits for them meanwhile.

The kernel tells a FUSE server which requests are interrupted, but no interrupt reaches pyfuse3 (pitfalls.md): a Ctrl-C
would wait until the handler answers. So whoever waits longer than a moment is looked at: a signal that is pending for
him, and neither blocked nor ignored, ends his wait with EINTR, but not what is fetched for him (semantics 5.2). Who
cannot be seen, being in another pid namespace, waits until the deadline.
"""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

import msgspec
import trio

log = logging.getLogger(__name__)

# How often callers are looked at; one small file of /proc each. A signal counts when it is there at two looks in a row:
# one that is taken at once by another thread of the process interrupts nobody.
_LOOK_S = 0.3
# Looks between two turns of the event loop: about 2 ms.
_LOOKS = 50
_SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_MASK = sum(1 << (number - 1) for number in _SIGNALS)


class PendingCall(msgspec.Struct, eq=False):
    """One call that waits: whose, and what to cancel. `seen`: a signal was pending at the last look.

    `interrupted`: it was at two, and the wait is over. `ended`: so is the mount.
    """

    tid: int
    scope: trio.CancelScope
    seen: bool = False
    interrupted: bool = False
    ended: bool = False


class InterruptWatcher:
    """The calls of one mount that wait. `is_interrupted(tid)`: whether a signal waits for a thread; see below."""

    def __init__(self, is_interrupted: Callable[[int], bool] | None = None) -> None:
        self._is_interrupted = is_interrupted or signal_is_pending
        self._waits: dict[PendingCall, None] = {}
        self._unseen: dict[PendingCall, None] = {}
        self._some = trio.Event()

    @contextlib.contextmanager
    def waiting(self, tid: int, scope: trio.CancelScope) -> Iterator[PendingCall]:
        """Within it, `scope` is cancelled where a signal waits for a thread. `tid`: 0 for one that cannot be seen."""
        wait = PendingCall(tid, scope)
        waits = self._waits if tid else self._unseen
        waits[wait] = None
        if tid:
            self._some.set()
        try:
            yield wait
        finally:
            waits.pop(wait, None)

    def end(self) -> None:
        """Let nobody wait any longer: the mount ends."""
        for wait in [*self._waits, *self._unseen]:
            wait.ended = True
            wait.scope.cancel()

    async def watch(self) -> None:
        """Look after the callers, until cancelled."""
        while True:
            if not self._waits:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(_LOOK_S)
            for count, wait in enumerate(list(self._waits), 1):
                pending = self._is_interrupted(wait.tid)
                if pending and wait.seen:
                    log.debug("a signal waits for thread %d: it waits no longer", wait.tid)
                    wait.interrupted = True
                    wait.scope.cancel()
                wait.seen = pending
                if count % _LOOKS == 0:
                    await trio.lowlevel.checkpoint()


def signal_is_pending(tid: int) -> bool:
    """Whether a signal that ends or interrupts waits for a thread, neither blocked nor ignored (proc_pid_status(5))."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            # A thread's name may have any other character in it that ends a line elsewhere.
            fields = dict(line.split(b":", 1) for line in file.read().split(b"\n") if line)
        own, shared, blocked, ignored = (int(fields[name], 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn"))
    except (OSError, KeyError, ValueError):
        return False  # gone, or not to be seen: then he waits as long as anybody
    return bool((own | shared) & ~blocked & ~ignored & _MASK)
