"""Ends calls whose thread has a pending signal.

The kernel tells a FUSE server which requests are interrupted, but no interrupt reaches pyfuse3 (pitfalls.md): a Ctrl-C
would wait until the handler answers. So while a call blocks, the status of its thread in /proc is polled. A pending
signal that is neither blocked nor ignored ends the call with EINTR; fetches go on (docs/semantics.md 5.2). A thread in
another pid namespace cannot be seen, so its calls wait until the deadline.
"""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

import msgspec
import trio

log = logging.getLogger(__name__)

# The interval of polling: one small file of /proc for each call. A signal counts if it is pending at two polls in a
# row: another thread of the process may take it at once.
_LOOK_S = 0.3
# Polls before the event loop gets a turn: about 2 ms.
_LOOKS = 50
_SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_MASK = sum(1 << (number - 1) for number in _SIGNALS)


class PendingCall(msgspec.Struct, eq=False):
    """A call that waits: its thread, and the scope to cancel. `seen`: a signal was pending at the last poll.

    `interrupted`: a signal was pending at two polls, and the call is cancelled. `ended`: the mount ends.
    """

    tid: int
    scope: trio.CancelScope
    seen: bool = False
    interrupted: bool = False
    ended: bool = False


class InterruptWatcher:
    """The calls of one mount that wait. `is_interrupted(tid)`: whether a thread has a pending signal; see below."""

    def __init__(self, is_interrupted: Callable[[int], bool] | None = None) -> None:
        self._is_interrupted = is_interrupted or signal_is_pending
        self._waits: dict[PendingCall, None] = {}
        self._unseen: dict[PendingCall, None] = {}
        self._some = trio.Event()

    @contextlib.contextmanager
    def waiting(self, tid: int, scope: trio.CancelScope) -> Iterator[PendingCall]:
        """Cancel `scope` if the thread gets a pending signal. `tid`: 0 for a thread that cannot be seen."""
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
        """Cancel all calls: the mount ends."""
        for wait in [*self._waits, *self._unseen]:
            wait.ended = True
            wait.scope.cancel()

    async def watch(self) -> None:
        """Poll the threads of all calls, until cancelled."""
        while True:
            if not self._waits:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(_LOOK_S)
            for count, wait in enumerate(list(self._waits), 1):
                pending = self._is_interrupted(wait.tid)
                if pending and wait.seen:
                    log.debug("thread %d has a pending signal: its call is interrupted", wait.tid)
                    wait.interrupted = True
                    wait.scope.cancel()
                wait.seen = pending
                if count % _LOOKS == 0:
                    await trio.lowlevel.checkpoint()


def signal_is_pending(tid: int) -> bool:
    """Whether a thread has a pending signal that is neither blocked nor ignored (proc_pid_status(5))."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            # A thread's name may have any other character in it that ends a line elsewhere.
            fields = dict(line.split(b":", 1) for line in file.read().split(b"\n") if line)
        own, shared, blocked, ignored = (int(fields[name], 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn"))
    except (OSError, KeyError, ValueError):
        return False  # gone, or in another pid namespace
    return bool((own | shared) & ~blocked & ~ignored & _MASK)
