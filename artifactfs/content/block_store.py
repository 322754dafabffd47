"""The cache on disk: blocks of files, shared by all mounts of one user.

    <cache dir>/CACHEDIR.TAG                                         the mark: this directory is ours (cache_dir.py)
    <cache dir>/blocks-1/<2 hex>/<30 hex>/<block index, hex>         one block: header and bytes
    <cache dir>/blocks-1/<2 hex>/<30 hex>/<first block, hex>-group   a group: header and 8 blocks that follow another
    <cache dir>/blocks-1/usage                                       bytes in all, under a lock

A file is written under a temporary name and renamed, never changed. A file with a wrong checksum (block_format.py) is
deleted and fetched again (docs/semantics.md 4.4). Everything here blocks; call it in a thread. Failures of the disk do
not raise: a failing cache costs speed, never a read.

Groups make whole files faster: 512 MiB in 1,024 files took 0.2 s longer than in 128 (measured 2026-11-23,
ext4, Linux 6.18).

The time of use is the file's mtime (access times are off on many disks). A file counts from the start of its write:
its temporary name holds its final size, valid while its writer lives (block_tree.py).
"""

import contextlib
import errno
import itertools
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from artifactfs.content import block_eviction, block_format, block_tree, block_writes, cache_dir, usage
from artifactfs.content.block_buffers import Buffer, NewBuffer
from artifactfs.content.block_eviction import Pins
from artifactfs.content.block_format import GROUP_BLOCKS, Block, Provenance
from artifactfs.content.block_tree import Cleared, File, Usage, total
from artifactfs.content.block_writes import NewFile
from artifactfs.content.cache_places import DIGEST_BYTES
from artifactfs.content.content_tuning import BLOCK_BYTES
from artifactfs.content.usage import Total

log = logging.getLogger(__name__)

_FORMAT = "blocks-1"
# Evicting down to this share of the limit: each eviction looks at every block, so it should be worth it.
_LOW_WATER = 0.9
# After the disk was full or refused, writing is not tried for this long.
_PAUSE_S = 10.0


class BlockStore:
    """The blocks of one cache directory. Safe for threads, and for several processes at once.

    `save` creates `directory`, again if it was deleted; it follows no symbolic link. `max_bytes` limits everything in
    it, `min_free_bytes` stays free on the disk. `session` names this mount. `new_buffer`: see block_format.read.
    `pins`: what is never evicted, given the directory that `claim` has found; None for nothing.
    """

    def __init__(
        self,
        directory: str,
        *,
        max_bytes: int,
        min_free_bytes: int,
        block_bytes: int = BLOCK_BYTES,
        new_buffer: NewBuffer = bytearray,
        pins: Callable[[str], Pins] | None = None,
    ) -> None:
        self.directory = directory
        self._find_pins = pins
        self._pins: Pins | None = None
        self._new_buffer = new_buffer
        self.block_bytes = block_bytes
        # The open directory of the blocks: as long as it is there, it is not looked for by its name again.
        self._opened: cache_dir.Directory | None = None
        self._opening = threading.Lock()
        # What was set, and is shown.
        self.limit_bytes = max_bytes
        # `du` counts directories and the temporary file, too: leave a margin for them.
        self.max_bytes = max_bytes - min(max_bytes >> 6, 1 << 20)
        # Blocks that `save` takes at once, if it is given more than one. A group is what is evicted as a piece.
        self.group_blocks = GROUP_BLOCKS if max_bytes >= 16 * GROUP_BLOCKS * block_bytes else 1
        self._min_free_bytes = min_free_bytes
        self._paused_until = 0.0
        self._counter = itertools.count(1)
        self.session = secrets.token_bytes(8)
        # For the status: bytes in all and free on the disk at the last look, and the evictions of this store.
        self.total_bytes: int | None = None
        self.free_bytes: int | None = None
        self.evicted_files = 0
        self.evicted_bytes = 0

    def claim(self) -> bool:
        """Make the directory ours, links followed this once; returns whether it can be used.

        Raises UserError for a directory that is not ours (docs/semantics.md 6.2).
        """
        try:
            self.directory = cache_dir.claim(self.directory).path
        except OSError as error:
            log.warning("no cache in %s: %s; everything is fetched again", self.directory, error.strerror)
            return False
        with contextlib.suppress(OSError):  # a disk that is full now: see `save`
            self._tree(make=True)
        self._pins = self._find_pins(self.directory) if self._find_pins is not None else None
        return True

    def load(self, key: bytes, indices: Sequence[int], accept: Callable[[Provenance], bool]) -> list[Block | None]:
        """Return the undamaged blocks whose stamp `accept` accepts; None for the others, which are deleted.

        `key`: names a version of a file (cache_places.py).
        """
        found: dict[int, Block] = {}
        groups = sorted({index // GROUP_BLOCKS * GROUP_BLOCKS for index in indices})
        files = [*((group, GROUP_BLOCKS) for group in groups), *((index, 1) for index in indices)]
        with contextlib.suppress(OSError), self._version(key) as directory:
            present = block_tree.present(directory, [block_format.file_name(*file) for file in files])
            for first, count in files:
                wanted = [index for index in indices if first <= index < first + count and index not in found]
                if wanted and block_format.file_name(first, count) in present:
                    found.update(self._load(directory, key, first, count, wanted, accept))
        return [found.get(index) for index in indices]

    def _load(
        self,
        directory: int,
        key: bytes,
        first: int,
        count: int,
        wanted: Sequence[int],
        accept: Callable[[Provenance], bool],
    ) -> dict[int, Block]:
        """Load blocks from one file; none if that is not there, damaged or not accepted."""
        name = block_format.file_name(first, count)
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(block_format.opened(name, directory))
            except OSError:
                return {}
            try:
                blocks = block_format.read(fd, key, first, count, wanted, self.block_bytes, self._new_buffer)
                if blocks and accept(blocks[0].stamp):
                    with contextlib.suppress(OSError):
                        os.utime(fd)
                    return dict(zip(wanted, blocks, strict=True))
            except OSError as error:
                log.warning("the cache: reading a block failed: %s", error.strerror)
        self._remove(directory, name)
        return {}

    def save(self, key: bytes, first: int, blocks: Sequence[bytes | Buffer], stamp: Provenance) -> bool:
        """Keep one block, or a group of `group_blocks` whole ones from index `first` on, all of one stamp.

        Returns whether they are cached. Evicts the least recently used blocks to make room.
        """
        return self.save_all([NewFile(key, first, blocks, stamp)])

    def save_all(self, files: Sequence[NewFile]) -> bool:
        """Keep several files at once, as many as there is room for; returns whether all of them are cached."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            return self._save(files)
        except FileNotFoundError:
            self._opened = None  # wiped, or discarded, in this moment
        except OSError as error:
            self._pause(error)
        return False

    def _save(self, files: Sequence[NewFile]) -> bool:
        with contextlib.ExitStack() as stack:
            begun: list[tuple[int, NewFile, Callable[[], None]]] = []
            with self._total(make=True) as held:
                waiting_bytes = 0  # room for each: all together may be more than the cache, or its disk, can hold
                # Still under the lock: nothing evicts a directory that is empty, or takes the file for a leftover.
                for file in files:
                    if not self._make_room(held, file.size_bytes, waiting_bytes):
                        break
                    directory = stack.enter_context(self._version(file.key, make=True))
                    # The session's name, not the process's id: ids come again, and so would what a crash left.
                    aside = f".{self.session.hex()}-{next(self._counter)}-{file.size_bytes:x}"
                    finish = stack.enter_context(block_writes.begun(directory, file, aside))
                    begun.append((directory, file, finish))
                    held.value += file.size_bytes
                    waiting_bytes += file.size_bytes
            for directory, file, finish in begun:
                finish()
                if len(file.blocks) > 1:
                    for name in block_tree.present(directory, file.single_names):
                        self._remove(directory, name)
        return len(begun) == len(files)

    def discard(self, key: bytes) -> None:
        """Delete every block of a version."""
        with contextlib.suppress(OSError), self._version(key) as directory:
            for name in os.listdir(directory):
                if block_format.is_name(name):
                    self._remove(directory, name)

    def held_bytes(self, key: bytes) -> int:
        """Return how many bytes of a version are kept, without a look into the files."""
        held = 0
        with contextlib.suppress(OSError), self._version(key) as directory:
            for name in filter(block_format.is_name, os.listdir(directory)):
                with contextlib.suppress(FileNotFoundError):  # evicted in this moment
                    size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
                    held += max(0, size - block_format.extra_bytes(key))
        return held

    def look(self) -> None:
        """See how full the cache and its disk are; what came of it is in `total_bytes` and `free_bytes`."""
        try:
            tree = self._tree()
            known = usage.last_known(tree.fd) if tree is not None else 0
            if known is not None:
                self.total_bytes = known
            found = os.statvfs(tree.fd if tree is not None else self.directory)
            self.free_bytes = found.f_bavail * found.f_frsize
        except OSError as error:
            log.debug("looking at the cache's disk failed: %s", error.strerror)

    def disk_room_bytes(self) -> int | None:
        """Return how large the cache can become on its disk, whatever its own limit; None where nothing tells."""
        self.look()
        free_bytes = self.free_bytes
        return None if free_bytes is None else (self.total_bytes or 0) + max(0, free_bytes - self._min_free_bytes)

    def sweep(self) -> None:
        """Delete what writers that were killed have left, and count again if there was anything; then `look`."""
        with contextlib.suppress(OSError):
            if (tree := self._tree()) is not None and block_tree.has_asides(tree.fd):
                with self._total() as held:
                    held.value = sum(file.size_bytes for file in block_tree.files(tree.fd, asides=True))
        self.look()

    def usage(self) -> Usage:
        """Count the blocks, their bytes and files."""
        return total(self._files())

    def bytes_by_place(self) -> dict[bytes, int]:
        """Return the bytes on disk of each place (cache_places.py) of which there are any."""
        found: Counter[bytes] = Counter()
        for place, file in self._placed_files():
            found[place] += file.size_bytes
        return found

    def verify(self) -> Iterator[tuple[str, int, bool]]:
        """Read every block; delete and yield those that are damaged: path, bytes on disk, and whether it is gone."""
        for file in self._files():
            first, count = block_format.first_in(file.name), block_format.count_in(file.name)
            damaged = True
            try:
                with self._version(file.key) as directory, block_format.opened(file.name, directory) as fd:
                    wanted = range(first, first + count)
                    damaged = not block_format.read(fd, file.key, first, count, wanted, self.block_bytes)
            except FileNotFoundError:
                continue  # evicted in this moment
            except OSError as error:
                log.info("the cache: reading a block failed: %s", error.strerror)
            if damaged:
                with contextlib.suppress(OSError), self._version(file.key) as directory:
                    self._remove(directory, file.name)
                path = os.path.join(self.directory, _FORMAT, file.upper, file.lower, file.name)
                yield path, file.size_bytes, not os.path.lexists(path)

    def clear(self, is_meant: Callable[[bytes], bool] | None = None, but_keys: Collection[bytes] = ()) -> Cleared:
        """Delete every block, or those whose place is meant (cache_places.py). Mounts that use them fetch again.

        `but_keys`: of versions that stay.
        """
        staying = {key[:DIGEST_BYTES] for key in but_keys}
        found_files = self._files() if is_meant is None else self._files_at(is_meant)
        todo = [file for file in found_files if file.key not in staying]
        gone: list[File] = []
        with contextlib.suppress(OSError):
            if todo and (tree := self._tree()) is not None:
                with self._total() as held:
                    gone = [file for file in todo if block_tree.unlink(tree.fd, file)]
                    held.value = sum(file.size_bytes for file in block_tree.files(tree.fd, asides=True))
        found = total(gone)
        return Cleared(found.size_bytes, found.blocks, found.files, left_blocks=total(todo).blocks - found.blocks)

    # --- files ---------------------------------------------------------------------------------------------

    def _tree(self, *, make: bool = False) -> cache_dir.Directory | None:
        """Return the open directory of the blocks; None where there is none. Raises OSError."""
        with self._opening:
            if self._opened is None or _is_deleted(self._opened.fd):
                self._opened = None
                try:
                    self._opened = self._open(make=make)
                except FileNotFoundError:
                    if make:
                        raise
            return self._opened

    def _open(self, *, make: bool) -> cache_dir.Directory:
        try:
            directory = (cache_dir.claim if make else cache_dir.find)(self.directory, links=False)
        except cache_dir.ForeignDirectory as error:
            raise OSError(errno.EPERM, str(error)) from None
        return cache_dir.Directory(cache_dir.subdirectory(_FORMAT, directory.fd, make=make), self.directory)

    @contextlib.contextmanager
    def _version(self, key: bytes, *, make: bool = False) -> Iterator[int]:
        """Open the directory of a version. Raises OSError."""
        if (tree := self._tree(make=make)) is None:
            raise FileNotFoundError(errno.ENOENT, "there is no cache yet")
        with block_tree.version(tree.fd, key, make=make) as directory:
            yield directory

    def _files(self) -> Iterator[File]:
        """Yield every file with blocks."""
        with contextlib.suppress(OSError):
            if (tree := self._tree()) is not None:
                yield from block_tree.files(tree.fd)

    def _files_at(self, is_meant: Callable[[bytes], bool]) -> Iterator[File]:
        """Yield the files of blocks whose place is meant."""
        verdicts: dict[bytes, bool] = {}
        for place, file in self._placed_files():
            if file.key not in verdicts:
                verdicts[file.key] = is_meant(place)
            if verdicts[file.key]:
                yield file

    def _placed_files(self) -> Iterator[tuple[bytes, File]]:
        """Yield every file with blocks, and its place. All blocks of a version have one."""
        places: dict[bytes, bytes] = {}
        for file in self._files():
            if file.key not in places:
                try:
                    with self._version(file.key) as directory, block_format.opened(file.name, directory) as fd:
                        place = block_format.read_place(fd)
                except FileNotFoundError:
                    continue  # evicted in this moment
                except OSError:
                    place = b""
                places[file.key] = place
            yield places[file.key], file

    def _remove(self, directory: int, name: str) -> None:
        with contextlib.suppress(OSError):
            # As a rule there is nothing, and nothing to lock for.
            os.stat(name, dir_fd=directory, follow_symlinks=False)
            with self._total() as held:
                size = block_tree.on_disk(os.stat(name, dir_fd=directory, follow_symlinks=False).st_size)
                os.unlink(name, dir_fd=directory)
                held.value = max(0, held.value - size)

    # --- room ----------------------------------------------------------------------------------------------

    def _make_room(self, held: Total, size: int, waiting_bytes: int) -> bool:
        """Evict the least recently used blocks until a file of `size` bytes fits; returns whether it does.

        `waiting_bytes`: of files that are counted, and not yet written.
        """
        if size > self.max_bytes:
            return False  # whatever is evicted
        if held.value + size > self.max_bytes or self._lacking(held, size + waiting_bytes) > 0:
            held.value = self._evict(held, size, self._lacking(held, size + waiting_bytes))
            if held.value + size > self.max_bytes or self._lacking(held, size + waiting_bytes) > 0:
                self._paused_until = time.monotonic() + _PAUSE_S
                log.info("the cache has no room left on its disk, or is too small; not caching for a while")
                return False
        return True

    def _lacking(self, held: Total, size: int) -> int:
        found = os.statvfs(held.within)
        return size + self._min_free_bytes - found.f_bavail * found.f_frsize

    def _evict(self, held: Total, size: int, lacking: int) -> int:
        """Make room for a file, as far as pins allow; returns the bytes that are left."""

        def goal(before: int) -> int:
            return min(before - lacking if lacking > 0 else before, int(self.max_bytes * _LOW_WATER) - size)

        evicted = block_eviction.evict(held.within, goal, self._pins)
        self.evicted_files += evicted.files
        self.evicted_bytes += evicted.size_bytes
        return evicted.left_bytes

    def _pause(self, error: OSError) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        log.warning("the cache cannot be written (%s); not caching for a while", error.strerror)

    @contextlib.contextmanager
    def _total(self, *, make: bool = False) -> Iterator[Total]:
        """Hold the lock of all processes over the count of bytes. Raises OSError."""
        if (tree := self._tree(make=make)) is None:
            raise FileNotFoundError(errno.ENOENT, "there is no cache yet")
        # Without a count, what is there must be counted before anything is added.
        with usage.held(tree.fd, unknown=self.max_bytes) as held:
            yield held
            self.total_bytes = held.value


def _is_deleted(fd: int) -> bool:
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError:
        return True  # a network file system says so
