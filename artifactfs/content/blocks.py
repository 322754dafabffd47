"""The cache on disk: blocks of files, shared by all mounts of one user.

    <cache dir>/blocks-1/<2 hex>/<30 hex>/<block index, hex>         one block: header and bytes
    <cache dir>/blocks-1/<2 hex>/<30 hex>/<first block, hex>-group   a group: header and 8 blocks that follow another
    <cache dir>/blocks-1/usage                                       bytes in all, under a lock

A file is written aside and renamed, never changed. What does not fit its own checksums (blockfile.py) is deleted and
fetched again (semantics 4.4). Everything here blocks; call it in a thread. Nothing here raises for what the disk does:
a cache that fails costs speed, never a read.

Groups are for those who read whole files: 512 MiB in 1,024 files took 0.2 s longer than in 128 (measured 2026-11-23,
ext4, Linux 6.18).

The time of use is the file's mtime (access times are off on many disks). What is being written counts from the start:
the name of a file aside says how large it will be.
"""

import contextlib
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from artifactfs.content import blockfile, usage
from artifactfs.content.blockfile import GROUP_BLOCKS, HEADER_BYTES, Block, Stamp
from artifactfs.content.usage import Total
from artifactfs.errors import ExitCode, UserError

log = logging.getLogger(__name__)

_FORMAT = "blocks-1"
# Evicting down to this share of the limit: each eviction looks at every block, so it should be worth it.
_LOW_WATER = 0.9
# A file aside that nobody renamed for this long was left behind by a crash.
_ABANDONED_S = 600.0
# After the disk was full or refused, writing is not tried for this long.
_PAUSE_S = 10.0
_DISK_PAGE = 4096


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

    `max_bytes` is the limit for all that is in it, `min_free_bytes` what stays free on the disk. `session` names this
    mount.
    """

    def __init__(
        self,
        directory: str,
        *,
        max_bytes: int,
        min_free_bytes: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._root = os.path.join(directory, _FORMAT)
        self._total_path = os.path.join(self._root, "usage")
        # What was set, and is shown.
        self.limit_bytes = max_bytes
        # Directories and the file aside count for whoever looks with `du`: leave them a little.
        self.max_bytes = max_bytes - min(max_bytes >> 6, 1 << 20)
        # Blocks that `save` takes at once, if it is given more than one. A group is what is evicted as a piece.
        self.group_blocks = GROUP_BLOCKS if max_bytes >= 16 * GROUP_BLOCKS * blockfile.BLOCK_BYTES else 1
        self._min_free_bytes = min_free_bytes
        self._wall_clock = wall_clock
        self._paused_until = 0.0
        self._counter = 0
        self._counter_lock = threading.Lock()
        self.session = secrets.token_bytes(8)
        # For who asks how it is: bytes in all and free on the disk as last seen, and what this store has evicted.
        self.total_bytes: int | None = None
        self.free_bytes: int | None = None
        self.evicted_files = 0
        self.evicted_bytes = 0

    def load(self, key: bytes, indices: Sequence[int], accept: Callable[[Stamp], bool]) -> list[Block | None]:
        """Return of each block what is there, whole, and of a stamp that `accept` takes; None otherwise.

        `key`: 16 bytes that name a version of a file. What is not accepted is deleted, as is what is damaged.
        """
        found: dict[int, Block] = {}
        if os.path.isdir(self._directory(key)):
            for group in sorted({index // GROUP_BLOCKS * GROUP_BLOCKS for index in indices}):
                wanted = [index for index in indices if group <= index < group + GROUP_BLOCKS]
                if blocks := self._load(key, group, GROUP_BLOCKS, wanted, accept):
                    found.update(blocks)
                    continue
                for index in wanted:
                    found.update(self._load(key, index, 1, [index], accept))
        return [found.get(index) for index in indices]

    def _load(
        self, key: bytes, first: int, count: int, wanted: Sequence[int], accept: Callable[[Stamp], bool]
    ) -> dict[int, Block]:
        """Load blocks from one file; none if that is not there, damaged or not accepted."""
        path = self._path(key, first, count)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            blocks = blockfile.read(fd, key, first, count, wanted)
            if blocks and accept(blocks[0].stamp):
                with contextlib.suppress(OSError):
                    os.utime(fd)
                return dict(zip(wanted, blocks, strict=True))
        except OSError as error:
            log.warning("the cache: reading a block failed: %s", error.strerror)
        finally:
            os.close(fd)
        self._remove(path)
        return {}

    def save(self, key: bytes, first: int, blocks: Sequence[bytes | bytearray | memoryview], stamp: Stamp) -> bool:
        """Keep one block, or a group of `group_blocks` whole ones from index `first` on, all of one stamp.

        Returns whether they are kept. Evicts what was used least recently where there is no room.
        """
        if time.monotonic() < self._paused_until:
            return False
        length = sum(len(block) for block in blocks)
        path = self._path(key, first, len(blocks))
        try:
            aside = self._reserve(os.path.dirname(path), _on_disk(HEADER_BYTES + length))
            if aside is None:
                return False
            blockfile.write(aside, path, key, first, blocks, stamp)
        except FileNotFoundError:
            return False  # wiped, or discarded, in this moment
        except OSError as error:
            self._pause(error)
            return False
        if len(blocks) > 1:
            for index in range(first, first + len(blocks)):
                self._remove(self._path(key, index, 1))
        return True

    def discard(self, key: bytes) -> None:
        """Delete every block of a version."""
        directory = self._directory(key)
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                self._remove(os.path.join(directory, name))

    def held_bytes(self, key: bytes) -> int:
        """Return how many bytes of a version are kept, without a look into the files."""
        held = 0
        for entry in _entries(self._directory(key)):
            with contextlib.suppress(OSError):  # evicted in this moment
                if not _is_aside(entry.name):
                    held += max(0, entry.stat(follow_symlinks=False).st_size - HEADER_BYTES)
        return held

    def look(self) -> None:
        """See how full the cache and its disk are; what came of it is in `total_bytes` and `free_bytes`."""
        try:
            if (known := usage.last_known(self._total_path)) is not None:
                self.total_bytes = known
            elif not os.path.isdir(self._root):
                self.total_bytes = 0
            found = os.statvfs(self.directory)
            self.free_bytes = found.f_bavail * found.f_frsize
        except OSError as error:
            log.debug("looking at the cache's disk failed: %s", error.strerror)

    def usage(self) -> Usage:
        """Count what is there."""
        found = list(self._scan())
        count = sum(blockfile.count_in(path) for *_, path in found)
        return Usage(sum(size for _, size, _ in found), count, len({os.path.dirname(path) for *_, path in found}))

    def verify(self) -> Iterator[tuple[str, int]]:
        """Read every block; delete and yield (path, bytes on disk) of those that are damaged."""
        for _, size, path in self._scan():
            directory, name = os.path.split(path)
            damaged = True
            try:
                key = bytes.fromhex(os.path.basename(os.path.dirname(directory)) + os.path.basename(directory))
                first, count = blockfile.first_in(name), blockfile.count_in(name)
                with open(path, "rb", buffering=0) as file:
                    damaged = blockfile.read(file.fileno(), key, first, count, range(first, first + count)) is None
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
        with contextlib.suppress(OSError), self._total() as held:
            for _, _, path in self._scan():
                self._unlink(path)
            held.value = sum(size for _, size, _ in self._files())
        return before

    # --- files ---------------------------------------------------------------------------------------------

    def _directory(self, key: bytes) -> str:
        name = key.hex()
        return os.path.join(self._root, name[:2], name[2:])

    def _path(self, key: bytes, first: int, count: int) -> str:
        return os.path.join(self._directory(key), blockfile.file_name(first, count))

    def _make(self, *directories: str) -> None:
        """Make directories of ours, and those above them: each is 0700, which `makedirs` grants the last one only."""
        for directory in (self.directory, self._root, *directories):
            os.makedirs(directory, mode=0o700, exist_ok=True)

    def _set_aside(self, directory: str, size: int) -> str:
        """Make a file that will take `size` bytes of the disk; returns its path."""
        with self._counter_lock:
            self._counter += 1
            # The session's name, not the process's id: ids come again, and so would what a crash left.
            aside = os.path.join(directory, f".{self.session.hex()}-{self._counter}-{size:x}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(aside, flags, 0o600)
        except FileNotFoundError:
            # The first block of this file, or the cache was wiped while we look.
            self._make(os.path.dirname(directory), directory)
            fd = os.open(aside, flags, 0o600)
        os.close(fd)
        return aside

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            os.lstat(path)  # as a rule there is nothing, and nothing to lock for
            with self._total() as held:
                size = _on_disk(os.lstat(path).st_size)
                os.unlink(path)
                held.value = max(0, held.value - size)

    @staticmethod
    def _unlink(path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))  # goes only when it is empty

    def _scan(self) -> Iterator[tuple[float, int, str]]:
        """Yield (time of use, bytes on disk, path) of every file with blocks; deletes what crashes left aside."""
        return (found for found in self._files() if not _is_aside(os.path.basename(found[2])))

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Do as `_scan`, those that are being written included, as large as they will be."""
        for first in _entries(self._root):
            for second in _entries(first.path):
                for entry in _entries(second.path):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        found = None  # evicted, or written to its end, in this moment
                    if not _is_aside(entry.name):
                        if found is not None:
                            yield found.st_mtime, _on_disk(found.st_size), entry.path
                    elif found is not None and self._wall_clock() - found.st_mtime > _ABANDONED_S:
                        self._unlink(entry.path)
                    else:
                        with contextlib.suppress(ValueError):
                            yield self._wall_clock(), int(entry.name.rpartition("-")[2], 16), entry.path

    # --- room ----------------------------------------------------------------------------------------------

    def _reserve(self, directory: str, size: int) -> str | None:
        """Make room for a file of `size` bytes, make it and count it in; None where there is no room to be had."""
        with self._total() as held:
            over = held.value + size > self.max_bytes
            lacking = self._lacking(size)
            if over or lacking > 0:
                held.value = self._evict(size, lacking)
                if held.value + size > self.max_bytes or self._lacking(size) > 0:
                    self._paused_until = time.monotonic() + _PAUSE_S
                    log.info("the cache has no room left on its disk, or is too small; not caching for a while")
                    return None
            aside = self._set_aside(directory, size)
            held.value += size
        return aside

    def _lacking(self, size: int) -> int:
        found = os.statvfs(self._root)
        return size + self._min_free_bytes - found.f_bavail * found.f_frsize

    def _evict(self, size: int, lacking: int) -> int:
        """Delete what was used least recently; returns the bytes that are left."""
        files = sorted(self._files())
        held = sum(file[1] for file in files)
        goal = min(held - lacking if lacking > 0 else held, int(self.max_bytes * _LOW_WATER) - size)
        for _, file_size, path in files:
            if held <= goal:
                break
            if not _is_aside(os.path.basename(path)):
                self._unlink(path)
                held -= file_size
                self.evicted_files += 1
                self.evicted_bytes += file_size
        return held

    def _pause(self, error: OSError) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        log.warning("the cache cannot be written (%s); not caching for a while", error.strerror)

    @contextlib.contextmanager
    def _total(self) -> Iterator[Total]:
        """Hold the lock of all processes over the count of bytes."""
        self._make()
        # Without a count, what is there must be counted before anything is added.
        with usage.held(self._total_path, unknown=self.max_bytes) as held:
            yield held
            self.total_bytes = held.value


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:
        return []  # a file, or gone


def _is_aside(name: str) -> bool:
    return name.startswith(".")


def _on_disk(size: int) -> int:
    return -(-size // _DISK_PAGE) * _DISK_PAGE
