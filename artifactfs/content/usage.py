"""The count of the cache's bytes, in one file under a lock, so that several processes share one limit.

The count may be too high, never too low; every eviction counts again. Raises OSError for failures of the disk.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from xxhash import xxh3_64_intdigest as _checksum

_NAME = "usage"
# bytes in all; checksum of that
_USAGE = struct.Struct("<QQ")


class Total:
    """The count of the directory `within`, while its lock is held. Its `value` is written when the lock is released."""

    def __init__(self, value: int, within: int) -> None:
        self.value = value
        self.within = within


@contextlib.contextmanager
def held(within: int, *, unknown: int) -> Iterator[Total]:
    """Hold the lock of all processes over the count in a directory. `unknown`: the count to assume if there is none."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(_NAME, flags, dir_fd=within)
    except FileNotFoundError:
        fd = os.open(_NAME, flags | os.O_CREAT, 0o600, dir_fd=within)
        os.fchmod(fd, 0o600)  # whatever the umask
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        known = _count_in(os.pread(fd, _USAGE.size, 0))
        total = Total(unknown if known is None else known, within)
        yield total
        count = total.value.to_bytes(8, "little")
        os.pwrite(fd, count + _checksum(count).to_bytes(8, "little"), 0)
    finally:
        os.close(fd)


def last_known(within: int) -> int | None:
    """Return the count in a directory without its lock; None where there is none."""
    try:
        fd = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=within)
    except FileNotFoundError:
        return None
    try:
        return _count_in(os.pread(fd, _USAGE.size, 0))
    finally:
        os.close(fd)


def _count_in(raw: bytes) -> int | None:
    """Return the count that the file of it holds; None if it is damaged, or there is none."""
    known = len(raw) == _USAGE.size and _checksum(raw[:8]) == _USAGE.unpack(raw)[1]
    return _USAGE.unpack(raw)[0] if known else None
