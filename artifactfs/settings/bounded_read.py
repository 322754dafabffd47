"""Reading a file that a setting names: in time, and no further than such a file can go.

What is hard is that the name may be of anything: a pipe into which nobody ever writes, whose plain `open` never
returns, or a device that never ends. But `<(pass show key)` is a pipe, too, and has to work. So nothing is opened in a
way that waits, and what it is decides how it is read.
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
    """Open a file for reading at once: a pipe, too, whether another process writes to it or not. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)


def read(
    path: str, *, most_bytes: int, limit_s: float, opener: Callable[[str], int] = open_plainly
) -> tuple[bytes, os.stat_result]:
    """Return what is in a file, and what it is. Raises OSError, whose `strerror` says it in words for the user.

    A pipe is waited for until it ends, for `limit_s` seconds in all; 0: pipes are refused, and nothing taken from them.
    A byte order mark, with which editors on Windows begin a file, is left out.
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
        # Who writes to `<(...)` is there before we are; who is not there now may never come.
        raise OSError(errno.EINVAL, "it is a pipe, and nobody writes to it")
    return bytes(found).removeprefix(codecs.BOM_UTF8), status


def refuse_special(path: str) -> None:
    """Raise OSError for what is no regular file: for a file that a library opens itself, and more than once."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _piece(fd: int, end: float, limit_s: float) -> bytes:
    """Return the next bytes, none at the end; waits for them until `end`."""
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
