"""Whether the system still gives this process memory, asked before a step that does not survive a lack of it.

Three such steps are known. To begin anything when the last bytes are gone: see `Reserve`. A worker that takes a request
without a buffer (fuse/request_loop.py). And a new thread: one without memory in its very first lines never says that
it has started, and `threading.Thread.start` waits for that for ever, with the event loop behind it (CPython 3.11, seen
2026-11-29 under `prlimit --as`).
"""

import ctypes
import mmap
import resource
import threading

# libfuse's buffer is 1 MiB and a header: and as much again for what the request needs.
_WORKER_BYTES = 2 << 20
# For what a dozen requests in flight need to fail, and the loop to tell their callers. Arbitrary.
_RESERVE_BYTES = 8 << 20
# What a mount takes beyond a command that has imported nothing for it: its modules and their libraries 30 MiB, the
# mount at rest 16, and twice that in use (measured 2026-11-29 as address space, with `ulimit -v`).
_MOUNT_BYTES = 64 << 20
# A thread's stack where its limit says nothing (glibc takes less then), and besides it what the thread begins with.
_STACK_BYTES = 8 << 20
_BEGINNING_BYTES = 4 << 20

# Not CDLL: to let other threads run meanwhile would let them take what was found to be there.
_libc = ctypes.PyDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.restype = None
_libc.free.argtypes = [ctypes.c_void_p]


def for_worker() -> bool:
    """Return whether there is memory for one more request. Takes 0.4 µs, and gives it back untouched."""
    block = _libc.malloc(_WORKER_BYTES)
    _libc.free(block)
    return block is not None


class Reserve:
    """Memory that is kept back, and given up when there is no other: for what is under way to come to its end.

    Without it the next small piece that cannot be had may be trio's or msgspec's own, and neither survives that (seen
    2026-11-29: TrioInternalError, a segmentation fault). Addresses alone, until it is given up: it is never touched.
    """

    def __init__(self) -> None:
        self._block = _mapping(_RESERVE_BYTES)

    def is_short(self) -> bool:
        """Return whether memory is so short that nothing new is to be begun. Takes 0.5 µs."""
        if not for_worker():
            if self._block is not None:
                self._block.close()
                self._block = None
        elif self._block is None:
            self._block = _mapping(_RESERVE_BYTES)
        return self._block is None


def for_mount() -> bool:
    """Return whether there is memory to begin a mount; to be asked before trio, httpx and pyfuse3 are imported.

    With less, an import fails in words of its own (ImportError of libssl.so.3, SystemError), or the loop loses a task
    before the mount has said anything (seen 2026-11-29 with `ulimit -v` from 33000 to 62000: no answer, no end).
    """
    block = _mapping(_MOUNT_BYTES)
    if block is None:
        return False
    block.close()
    return True


def for_thread() -> bool:
    """Return whether there is memory for one more thread, as a mapping: its stack and its first frames are some."""
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack_bytes = _STACK_BYTES if limit == resource.RLIM_INFINITY else limit
    block = _mapping(stack_bytes + _BEGINNING_BYTES)
    if block is None:
        return False
    block.close()
    return True


def _mapping(size_bytes: int) -> mmap.mmap | None:
    """Return new addresses of a process's own, untouched; None where there are none."""
    try:
        return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return None


def refuse_threads() -> None:
    """From now on, refuse to start a thread without memory for it, as the system refuses one past a limit.

    For all threads of the process: trio and the resolver start theirs themselves.
    """
    start = threading.Thread.start

    def start_with_room(thread: threading.Thread) -> None:
        if not for_thread():
            raise RuntimeError("can't start new thread: there is no memory for it")
        start(thread)

    threading.Thread.start = start_with_room  # type: ignore[method-assign, assignment]
