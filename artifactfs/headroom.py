"""Whether the system still gives this process memory, asked before a step that does not survive a lack of it.

Two such steps are known. A worker that takes a request without a buffer (fuse/receiving.py). And a new thread: one that
gets no memory in its very first lines never says that it has started, and `threading.Thread.start` waits for that for
ever, with the event loop behind it (CPython 3.11, seen 2026-11-29 under `prlimit --as`).
"""

import ctypes
import mmap
import resource
import threading

# libfuse's buffer is 1 MiB and a header: and as much again for what the request needs.
_WORKER_BYTES = 2 << 20
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


def for_thread() -> bool:
    """Return whether there is memory for one more thread, as a mapping: its stack and its first frames are some."""
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack_bytes = _STACK_BYTES if limit == resource.RLIM_INFINITY else limit
    try:
        mmap.mmap(-1, stack_bytes + _BEGINNING_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


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
