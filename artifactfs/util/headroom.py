"""Checks that memory is left, before steps that do not survive a lack of it.

Three such steps are known. Any work after the last bytes are used: see `is_short`. A worker that takes a request
without a buffer (fuse/request_loop.py). A new thread: without memory in its first lines it never reports its start, and
`threading.Thread.start` waits for that forever, with the event loop behind it (CPython 3.11, seen 2026-11-29 under
`prlimit --as`).
"""

import ctypes
import mmap
import resource
import threading

# libfuse's buffer is 1 MiB and a header; the request may need as much again.
_WORKER_BYTES = 2 << 20
# Enough for a dozen requests in flight to fail, and for the replies to their callers. Arbitrary.
_RESERVE_BYTES = 8 << 20
# The memory of a mount beyond that of a small command: 30 MiB for modules and libraries, 16 for the mount at rest,
# twice that in use (measured 2026-11-29 as address space, with `ulimit -v`).
_MOUNT_BYTES = 64 << 20
# A thread's stack without a limit (glibc takes less then), and the memory that a thread needs to start.
_STACK_BYTES = 8 << 20
_BEGINNING_BYTES = 4 << 20

# Not CDLL, which releases the GIL: other threads could take the memory that was found.
_libc = ctypes.PyDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.restype = None
_libc.free.argtypes = [ctypes.c_void_p]


def for_worker() -> bool:
    """Whether there is memory for one more request. Takes 0.4 µs; the memory stays untouched."""
    block = _libc.malloc(_WORKER_BYTES)
    _libc.free(block)
    return block is not None


# Of this process, as its memory is; None before the first request, and while no other memory is left.
_reserve: mmap.mmap | None = None


def is_short() -> bool:
    """Whether memory is so short that no request may begin. Takes 0.5 µs.

    Then a reserve is released, so that requests in flight can end. Without it, the next failed allocation may be trio's
    or msgspec's own, and neither survives that (seen 2026-11-29: TrioInternalError, a segmentation fault). The reserve
    is address space alone, since it is never touched.
    """
    global _reserve
    if not for_worker():
        if _reserve is not None:
            _reserve.close()
            _reserve = None
    elif _reserve is None:
        _reserve = _mapping(_RESERVE_BYTES)
    return _reserve is None


def for_mount() -> bool:
    """Whether there is memory for a mount; call it before trio, httpx and pyfuse3 are imported.

    With less, an import fails with an unrelated message (ImportError of libssl.so.3, SystemError), or the loop loses a
    task before the first message (seen 2026-11-29 with `ulimit -v` from 33000 to 62000: no answer, no end).
    """
    block = _mapping(_MOUNT_BYTES)
    if block is None:
        return False
    block.close()
    return True


def for_thread() -> bool:
    """Whether one more thread can be mapped: its stack and its first frames."""
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack_bytes = _STACK_BYTES if limit == resource.RLIM_INFINITY else limit
    block = _mapping(stack_bytes + _BEGINNING_BYTES)
    if block is None:
        return False
    block.close()
    return True


def _mapping(size_bytes: int) -> mmap.mmap | None:
    """Return new private address space, untouched; None if there is none."""
    try:
        return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return None


def refuse_threads() -> None:
    """Make `Thread.start` raise RuntimeError without memory for the thread, as it does past a limit of the system.

    For all threads of the process: trio and the resolver start theirs themselves.
    """
    start = threading.Thread.start

    def start_with_room(thread: threading.Thread) -> None:
        if not for_thread():
            raise RuntimeError("can't start new thread: there is no memory for it")
        start(thread)

    threading.Thread.start = start_with_room  # type: ignore[method-assign, assignment]
