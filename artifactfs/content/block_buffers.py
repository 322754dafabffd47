"""Buffers of whole blocks, each used again once no view of it is left.

A new buffer for each block costs a page fault for each of its pages: 40,000 to 60,000 for 512 MiB, as much as copying
the bytes (measured 2026-11-29). What is hard: a block that was evicted may still have readers, and their bytes must
never change. Python counts the views of a buffer itself: an mmap with views refuses to be resized. So that alone
decides, and nothing has to be given back.
"""

import mmap
from collections import deque
from collections.abc import Callable

# Memory for contents. `NewBuffer(size)`: a buffer of `size` bytes with any contents.
Buffer = bytearray | memoryview
NewBuffer = Callable[[int], Buffer]


class BlockBuffers:
    """Buffers of `size_bytes`; at most `max_bytes` of them are kept for another use. Safe for threads."""

    def __init__(self, size_bytes: int, max_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._most = max_bytes // size_bytes
        # The one that was taken first is at the left. A buffer that a thread looks at is not in it.
        self._buffers: deque[mmap.mmap] = deque()

    def take(self, size_bytes: int) -> memoryview:
        """Return a buffer of `size_bytes` with any contents; it is the caller's, as are all views of it.

        Raises MemoryError.
        """
        if size_bytes != self._size_bytes:
            return memoryview(bytearray(size_bytes))
        buffer = self._unused() or _mapped(size_bytes)
        view = memoryview(buffer)
        if len(self._buffers) < self._most:
            self._buffers.append(buffer)
        return view

    def _unused(self) -> mmap.mmap | None:
        """Take a buffer without views out of those that are kept; None if none was found."""
        for _ in range(len(self._buffers)):
            try:
                buffer = self._buffers.popleft()
            except IndexError:  # another thread was faster
                return None
            if not _has_views(buffer):
                return buffer
            self._buffers.append(buffer)
        return None


def _has_views(buffer: mmap.mmap) -> bool:
    """Whether a view of it is left. Takes 0.6 µs."""
    try:
        # To the size that it has: for the kernel that is nothing.
        buffer.resize(len(buffer))
    except (BufferError, OSError):  # OSError: where the system refuses mremap, no buffer is used again
        return True
    return False


def _mapped(size_bytes: int) -> mmap.mmap:
    """Return new memory. Unlike malloc's it goes back to the system as soon as nothing refers to it."""
    try:
        return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        # As for any other object. An OSError would be taken for a failure of the disk.
        raise MemoryError(str(error)) from error
