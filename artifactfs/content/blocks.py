"""The cache on disk: blocks of files, shared by all mounts of one user.

    <cache dir>/blocks-1/<2 hex>/<30 hex>/<block index, hex>    one block: header and bytes
    <cache dir>/blocks-1/usage                                  bytes in all, under a lock

A block file is written aside and renamed, never changed. Its header names what it is a block of, so a file in the
wrong place is no block, and holds checksums of itself and of the bytes, so a bit flip, a cut file or a crash in the
middle is noticed: whatever does not fit is deleted and fetched again (semantics 4.4). Everything here blocks; call it
in a thread. Nothing here raises for what the disk does: a cache that fails costs speed, never a read.

The time of use is the file's mtime (access times are off on many disks). The total is kept in one file under a lock,
so that several processes hold one limit; it is only ever too high, and every eviction counts anew.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import msgspec

from artifactfs.errors import ExitCode, UserError

log = logging.getLogger(__name__)

# What is fetched and kept as a piece. Large enough that a file costs its disk and the service little per byte, small
# enough that a random read moves little: 100 of them move 50 MiB.
BLOCK_BYTES = 512 << 10

_FORMAT = "blocks-1"
_MAGIC = b"AFSBLK1\n"
# magic, key, index, length, checksum of the bytes, time of the fetch, session, validator, run; then its own checksum
_HEADER = struct.Struct("<8s16sQIId8s16s16s")
_HEADER_BYTES = _HEADER.size + 4
# bytes in all; checksum of that
_USAGE = struct.Struct("<QI")
_NONE = bytes(16)
# Evicting down to this share of the limit: each eviction looks at every block, so it should be worth it.
_LOW_WATER = 0.9
# A file aside that nobody renamed for this long was left behind by a crash.
_ABANDONED_S = 600.0
# After the disk was full or refused, writing is not tried for this long.
_PAUSE_S = 10.0
_DISK_PAGE = 4096


class Stamp(msgspec.Struct, frozen=True):
    """What the bytes of a block are known by, when they were fetched.

    `validator`: of the answer; `run`: a digest of a settled run's times; each None where there was none.
    `fetched_at`: seconds since the epoch. `session`: the mount that fetched it.
    """

    fetched_at: float
    session: bytes
    validator: bytes | None = None
    run: bytes | None = None


class Block(msgspec.Struct):
    """The first `len(data)` bytes of a block, and its stamp."""

    data: bytearray
    stamp: Stamp


class Usage(msgspec.Struct, frozen=True):
    """What the cache holds: bytes on disk, blocks, and files that they belong to."""

    size_bytes: int
    blocks: int
    files: int


def prepare(directory: str) -> bool:
    """Make the cache directory, or see that it is ours; returns whether it can be used.

    Raises UserError for one that is somebody else's (semantics 6.2).
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = refuse_foreign(directory)
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(directory, 0o700)
    except OSError as error:
        log.warning("no cache in %s: %s; everything is fetched anew", directory, error.strerror)
        return False
    return True


def refuse_foreign(directory: str) -> os.stat_result:
    """Return the state of a cache directory. Raises OSError, and UserError for one that is somebody else's."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UserError(
            ExitCode.CACHE_REFUSED,
            f"the cache directory {directory} belongs to somebody else: give one of your own with --cache-dir",
        )
    return found


class BlockStore:
    """The blocks of one cache directory. Safe for threads, and for several processes at once.

    `max_bytes` is the limit for all blocks, `min_free_bytes` what stays free on the disk. `session` names this mount.
    """

    def __init__(
        self,
        directory: str,
        *,
        max_bytes: int,
        min_free_bytes: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._top = directory
        self._root = os.path.join(directory, _FORMAT)
        # Directories and the file aside count for whoever looks with `du`: leave them a little.
        self.max_bytes = max_bytes - min(max_bytes >> 6, 1 << 20)
        self._min_free_bytes = min_free_bytes
        self._wall_clock = wall_clock
        self._paused_until = 0.0
        self._counter = 0
        self._counter_lock = threading.Lock()
        self.session = secrets.token_bytes(8)

    def load(self, key: bytes, index: int, accept: Callable[[Stamp], bool]) -> Block | None:
        """Return a block that is there, whole, and of a stamp that `accept` takes; None otherwise.

        `key`: 16 bytes that name a version of a file. A block that is not accepted is deleted, as is a damaged one.
        """
        path = self._path(key, index)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            block = self._read(fd, key, index)
            if block is not None and accept(block.stamp):
                with contextlib.suppress(OSError):
                    os.utime(fd)
                return block
        except OSError as error:
            log.warning("the cache: reading a block failed: %s", error.strerror)
        finally:
            os.close(fd)
        self._remove(path)
        return None

    def save(self, key: bytes, index: int, data: bytes | bytearray | memoryview, stamp: Stamp) -> bool:
        """Keep a block; returns whether it is kept. Evicts what was used least recently where there is no room."""
        if time.monotonic() < self._paused_until:
            return False
        header = _HEADER.pack(
            _MAGIC,
            key,
            index,
            len(data),
            zlib.crc32(data),
            stamp.fetched_at,
            stamp.session,
            stamp.validator or _NONE,
            stamp.run or _NONE,
        )
        size = _on_disk(_HEADER_BYTES + len(data))
        try:
            if not self._reserve(size):
                return False
            self._write(self._path(key, index), [header, struct.pack("<I", zlib.crc32(header)), data])
        except FileNotFoundError:
            return False  # wiped, or discarded, in this moment
        except OSError as error:
            self._pause(error)
            return False
        return True

    def discard(self, key: bytes) -> None:
        """Delete every block of a version."""
        directory = self._directory(key)
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                self._remove(os.path.join(directory, name))

    def usage(self) -> Usage:
        """Count what is there."""
        found = list(self._scan())
        return Usage(sum(size for _, size, _ in found), len(found), len({os.path.dirname(path) for *_, path in found}))

    def verify(self) -> Iterator[tuple[str, int]]:
        """Read every block; delete and yield (path, bytes on disk) of those that are damaged."""
        for _, size, path in self._scan():
            directory, name = os.path.split(path)
            damaged = True
            try:
                key = bytes.fromhex(os.path.basename(os.path.dirname(directory)) + os.path.basename(directory))
                with open(path, "rb", buffering=0) as file:
                    damaged = self._read(file.fileno(), key, int(name, 16)) is None
            except FileNotFoundError:
                continue  # evicted in this moment
            except (OSError, ValueError):
                pass
            if damaged:
                self._remove(path)
                yield path, size

    def clear(self) -> Usage:
        """Delete every block; returns what was deleted. Mounts that are using it fetch anew."""
        before = self.usage()
        with contextlib.suppress(OSError), self._total() as total:
            for _, _, path in self._scan():
                self._unlink(path)
            total.value = 0
        return before

    # --- files ---------------------------------------------------------------------------------------------

    def _directory(self, key: bytes) -> str:
        name = key.hex()
        return os.path.join(self._root, name[:2], name[2:])

    def _path(self, key: bytes, index: int) -> str:
        return os.path.join(self._directory(key), f"{index:08x}")

    def _make(self, *directories: str) -> None:
        """Make directories of ours, and those above them: each is 0700, which `makedirs` grants the last one only."""
        for directory in (self._top, self._root, *directories):
            os.makedirs(directory, mode=0o700, exist_ok=True)

    @staticmethod
    def _read(fd: int, key: bytes, index: int) -> Block | None:
        raw = os.pread(fd, _HEADER_BYTES, 0)
        if len(raw) != _HEADER_BYTES or zlib.crc32(raw[:-4]) != struct.unpack_from("<I", raw, _HEADER.size)[0]:
            return None
        magic, its_key, its_index, length, checksum, fetched_at, session, validator, run = _HEADER.unpack_from(raw)
        if (magic, its_key, its_index) != (_MAGIC, key, index) or not 0 < length <= BLOCK_BYTES:
            return None
        if os.fstat(fd).st_size != _HEADER_BYTES + length:
            return None
        data = bytearray(length)
        # One call reads it all, but for a signal in between; a short read is a cut file either way.
        if os.preadv(fd, [data], _HEADER_BYTES) != length or zlib.crc32(data) != checksum:
            return None
        stamp = Stamp(fetched_at, session, validator if validator != _NONE else None, run if run != _NONE else None)
        return Block(data, stamp)

    def _write(self, path: str, parts: list[bytes | bytearray | memoryview]) -> None:
        directory = os.path.dirname(path)
        with self._counter_lock:
            self._counter += 1
            # The session's name, not the process's id: ids come again, and so would what a crash left.
            aside = os.path.join(directory, f".{self.session.hex()}-{self._counter}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(aside, flags, 0o600)
        except FileNotFoundError:
            # The first block of this file, or the cache was wiped while we look.
            self._make(os.path.dirname(directory), directory)
            fd = os.open(aside, flags, 0o600)
        try:
            try:
                wanted = sum(len(part) for part in parts)
                if os.writev(fd, parts) != wanted:
                    raise OSError(errno.ENOSPC, "the disk took only part of a block")
            finally:
                os.close(fd)
            os.rename(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            size = _on_disk(os.lstat(path).st_size)
            os.unlink(path)
            with self._total() as total:
                total.value = max(0, total.value - size)

    @staticmethod
    def _unlink(path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))  # goes only when it is empty

    def _scan(self) -> Iterator[tuple[float, int, str]]:
        """Yield (time of use, bytes on disk, path) of every block; deletes what crashes left aside."""
        for first in _entries(self._root):
            for second in _entries(first.path):
                for entry in _entries(second.path):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue  # evicted by another process in this moment
                    if not entry.name.startswith("."):
                        yield found.st_mtime, _on_disk(found.st_size), entry.path
                    elif self._wall_clock() - found.st_mtime > _ABANDONED_S:
                        self._unlink(entry.path)

    # --- room ----------------------------------------------------------------------------------------------

    def _reserve(self, size: int) -> bool:
        """Make room for `size` bytes and count them in; False where there is none to be had."""
        with self._total() as total:
            over = total.value + size > self.max_bytes
            lacking = self._lacking(size)
            if over or lacking > 0:
                total.value = self._evict(size, lacking)
                if total.value + size > self.max_bytes or self._lacking(size) > 0:
                    self._paused_until = time.monotonic() + _PAUSE_S
                    log.info("the cache has no room left on its disk, or is too small; not caching for a while")
                    return False
            total.value += size
        return True

    def _lacking(self, size: int) -> int:
        found = os.statvfs(self._root)
        return size + self._min_free_bytes - found.f_bavail * found.f_frsize

    def _evict(self, size: int, lacking: int) -> int:
        """Delete what was used least recently; returns the bytes that are left."""
        blocks = sorted(self._scan())
        held = sum(block[1] for block in blocks)
        goal = min(held - lacking if lacking > 0 else held, int(self.max_bytes * _LOW_WATER) - size)
        for _, block_size, path in blocks:
            if held <= goal:
                break
            self._unlink(path)
            held -= block_size
        return held

    def _pause(self, error: OSError) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        log.warning("the cache cannot be written (%s); not caching for a while", error.strerror)

    @contextlib.contextmanager
    def _total(self) -> Iterator["_Total"]:
        """Hold the lock of all processes over the count of bytes."""
        self._make()
        path = os.path.join(self._root, "usage")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            raw = os.pread(fd, _USAGE.size, 0)
            # Without a count, what is there must be counted before anything is added.
            known = len(raw) == _USAGE.size and zlib.crc32(raw[:8]) == _USAGE.unpack(raw)[1]
            total = _Total(_USAGE.unpack(raw)[0] if known else self.max_bytes)
            yield total
            count = total.value.to_bytes(8, "little")
            os.pwrite(fd, count + zlib.crc32(count).to_bytes(4, "little"), 0)
        finally:
            os.close(fd)


class _Total:
    def __init__(self, value: int) -> None:
        self.value = value


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:
        return []  # a file, or gone


def _on_disk(size: int) -> int:
    return -(-size // _DISK_PAGE) * _DISK_PAGE
