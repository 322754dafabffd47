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


class PendingCalls(msgspec.Struct, eq=False):
    """The calls of one mount that wait: of threads that are watched, and of threads that cannot be seen.

    `some`: set once a call is watched.
    """

    watched: dict[PendingCall, None] = {}
    unseen: dict[PendingCall, None] = {}
    some: trio.Event = msgspec.field(default_factory=trio.Event)


@contextlib.contextmanager
def pending(calls: PendingCalls, tid: int, scope: trio.CancelScope) -> Iterator[PendingCall]:
    """Cancel `scope` if the thread gets a pending signal. `tid`: 0 for a thread that cannot be seen."""
    call = PendingCall(tid, scope)
    waits = calls.watched if tid else calls.unseen
    waits[call] = None
    if tid:
        calls.some.set()
    try:
        yield call
    finally:
        waits.pop(call, None)


def end(calls: PendingCalls) -> None:
    """Cancel all calls: the mount ends."""
    for call in [*calls.watched, *calls.unseen]:
        call.ended = True
        call.scope.cancel()


async def watch(calls: PendingCalls, is_interrupted: Callable[[int], bool]) -> None:
    """Poll the threads of all calls, until cancelled. `is_interrupted(tid)`: whether a thread has a pending signal."""
    while True:
        if not calls.watched:
            calls.some = trio.Event()
            await calls.some.wait()
        await trio.sleep(_LOOK_S)
        for count, call in enumerate(list(calls.watched), 1):
            is_pending = is_interrupted(call.tid)
            if is_pending and call.seen:
                log.debug("thread %d has a pending signal: its call is interrupted", call.tid)
                call.interrupted = True
                call.scope.cancel()
            call.seen = is_pending
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
