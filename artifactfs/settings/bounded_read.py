"""Reads a file that a setting names, within a time and a size.

The name may be of anything: a pipe without a writer, whose plain `open` never returns, or a device without an end. But
`<(pass show key)` is a pipe, too, and has to work. So no open waits, and the type of the file decides how it is read.
"""

import codecs
import errno
import os
import select
import stat
import time
from collections.abc import Callable

from artifactfs.util.humanize import format_size

_PIECE_BYTES = 64 << 10


def open_plainly(path: str) -> int:
    """Open a file for reading without waiting: also a pipe that has no writer. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)


def read(
    path: str, *, most_bytes: int, limit_s: float, opener: Callable[[str], int] = open_plainly
) -> tuple[bytes, os.stat_result]:
    """Return a file's contents and its status. Raises OSError, whose `strerror` is in words for the user.

    A pipe is read to its end, for at most `limit_s` seconds; 0 refuses pipes and reads no byte of them.
    A byte order mark, which editors on Windows write first, is left out.
    """
    end = time.monotonic() + limit_s
    fd = opener(path)
    try:
        status = os.fstat(fd)
        if stat.S_ISFIFO(status.st_mode) and limit_s <= 0:
            raise OSError(errno.EINVAL, "it is a pipe, not a regular file")
        found = bytearray()
        while piece := _piece(fd, end, limit_s):
            found += piece
            if len(found) > most_bytes:
                raise OSError(errno.EFBIG, f"it is larger than {format_size(most_bytes)}")
    finally:
        os.close(fd)
    if not found and stat.S_ISFIFO(status.st_mode):
        # The writer of `<(...)` opens before the reader; a writer that is missing now may never come.
        raise OSError(errno.EINVAL, "it is a pipe without a writer")
    return bytes(found).removeprefix(codecs.BOM_UTF8), status


def refuse_special(path: str) -> None:
    """Raise OSError for anything but a regular file: for a file that a library opens itself, and more than once."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _piece(fd: int, end: float, limit_s: float) -> bytes:
    """Return the next bytes, b"" at the end of the file; waits for them until `end`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        try:
            return os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise OSError(errno.ETIMEDOUT, f"its end did not come within {limit_s:g} s") from None
            poll.poll(left_s * 1000)
