"""Loads and saves blocks of the cache on disk in threads, so that the event loop never waits for a disk.

Saves are queued, and the queue is bounded: where the disk is slower than the network, a fetch waits a little for room,
then goes on without saving (docs/semantics.md 4.4: a cache costs speed, never a read). While no thread can be had,
nothing is found and nothing is saved (5.5).
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import msgspec
import trio

from artifactfs.content.block_buffers import Buffer
from artifactfs.content.block_format import Block, Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.block_tree import Cleared
from artifactfs.content.block_writes import NewFile
from artifactfs.content.cache_places import place_in
from artifactfs.content.content_tuning import DEFAULTS, ContentTuning
from artifactfs.content.read_stats import CacheState
from artifactfs.errors import NoThread
from artifactfs.util import threads
from artifactfs.util.no_checkpoint import no_checkpoint
from artifactfs.util.pulse import Pulse

T = TypeVar("T")

log = logging.getLogger(__name__)

# Threads at the disk at once: one to read while one writes, on each of two cores. Arbitrary.
_THREADS = 4
# How long a fetch waits for room in the queue.
_ROOM_WAIT_S = 2.0
# Blocks written by one call of a thread, where they are no group, and their bytes: all wait for the last of them.
_BATCH, _BATCH_BYTES = 16, 512 << 10

_Place = tuple[bytes, int]
_IsMeant = Callable[[bytes], bool]
_Save = Callable[[BlockStore, Sequence[tuple[_Place, Block]]], bool]


class _Waiting(msgspec.Struct):
    """A block in the queue. At `due` (of trio's clock) it waits no more for its group, or for others."""

    block: Block
    due: float


class DiskCache:
    """See the module. Without a store nothing is ever cached."""

    def __init__(
        self,
        store: BlockStore | None,
        nursery: trio.Nursery,
        tuning: ContentTuning = DEFAULTS,
        run_in_thread: threads.RunInThread = threads.run,
    ) -> None:
        self._store = store
        self._nursery = nursery
        self._tuning = tuning
        self._run_in_thread = run_in_thread
        self._threads = trio.CapacityLimiter(_THREADS)
        # A limiter of its own: a look at a disk that hangs must not hold up reads.
        self._looks = trio.CapacityLimiter(1)
        # The queue, in order. `load` finds its blocks.
        self._waiting: dict[_Place, _Waiting] = {}
        self._waiting_bytes = 0
        # The number of queued blocks of each group, by (key, first index), and the groups that are complete.
        self._group_blocks = store.group_blocks if store is not None else 1
        self._gathered: Counter[_Place] = Counter()
        self._groups: dict[_Place, None] = {}
        # Versions of which a thread is writing a block.
        self._writing: frozenset[bytes] = frozenset()
        # The number of `flush` calls that wait.
        self._flushing = 0
        # The queue grew, or a flush began; and: a thread has finished a write.
        self._queued = Pulse()
        self._written = Pulse()
        # The disk wrote nothing while a fetch waited for room: no fetch waits again until it does.
        self._stuck = False
        # The last call found no thread; and versions that are to be deleted since.
        self._without_threads = False
        self._doomed: set[bytes] = set()
        # The parts of the cache that are being deleted, as tests of a place: nothing of them is loaded.
        self._refused: list[_IsMeant] = []
        # What fits on the disk; `room_bytes` is 0 if the last save failed.
        self.room_bytes = self.max_bytes = store.max_bytes if store is not None else 0
        self._idle = trio.Event()
        self._idle.set()
        self.session = store.session if store is not None else b""
        self._looking = False

    @property
    def is_idle(self) -> bool:
        """Whether the queue is empty, and nothing of it is left in any count."""
        return not (self._waiting or self._waiting_bytes or self._gathered or self._groups or self._writing)

    async def load(
        self, key: bytes, indices: Sequence[int], accept: Callable[[Provenance], bool]
    ) -> list[Block | None]:
        """Return the blocks that are cached and accepted, None for each other one."""
        store = self._store
        if store is None or not indices or any(is_meant(place_in(key)) for is_meant in self._refused):
            return [None] * len(indices)
        found = {index: self._waiting[key, index].block for index in indices if (key, index) in self._waiting}
        missing = [index for index in indices if index not in found]
        if missing:
            with contextlib.suppress(NoThread):  # as if nothing were cached
                await self._delete(store, key)
                loaded = await self._in_thread(store.load, key, missing, accept)
                found.update((index, block) for index, block in zip(missing, loaded, strict=True) if block is not None)
        return [found.get(index) for index in indices]

    def queue(self, key: bytes, index: int, data: Buffer, size: int, stamp: Provenance) -> None:
        """Queue the first `size` bytes of a block, to be saved; not where the disk does not keep up."""
        if self._store is not None and not (self._stuck and self._is_full):
            block = Block(data if size == len(data) else bytearray(data[:size]), stamp)
            self._enqueue(self._store, (key, index), block)

    async def wait_for_room(self) -> None:
        """Wait a little where the queue is too long. What is queued before stays there, whatever memory evicts."""
        while self._is_full:
            with trio.move_on_after(0 if self._stuck else _ROOM_WAIT_S) as waited:
                await self._written.wait()
            if waited.cancelled_caught:
                if not self._stuck:
                    log.info("the cache's disk does not keep up: not every block is cached")
                self._stuck = True
                return

    @property
    def _is_full(self) -> bool:
        return self._waiting_bytes > self._tuning.disk_queue_bytes

    @no_checkpoint
    def _enqueue(self, store: BlockStore, place: _Place, block: Block) -> None:
        """Queue a block in place of an earlier one, and see that the queue is written: `load` finds one of the two."""
        self._take(place)
        self._put(place, block)
        if self._idle.is_set():
            self._idle = trio.Event()
            self._nursery.start_soon(self._write, store)
        if self._next()[0]:
            self._queued.notify()

    async def discard(self, key: bytes) -> None:
        """Delete every cached block of a version."""
        if self._store is not None:
            for place in [place for place in self._waiting if place[0] == key]:
                self._take(place)
            # Shielded: a caller that gives up must not leave the blocks there.
            with trio.CancelScope(shield=True):
                if key in self._writing:
                    await self._written.wait()
                self._doomed.add(key)
                with contextlib.suppress(NoThread):  # then `load` deletes them first
                    await self._delete(self._store, key)

    @no_checkpoint
    def refuse(self, is_meant: _IsMeant) -> None:
        """Load nothing more of the places that are meant, until `delete` has deleted what is cached of them."""
        self._refused.append(is_meant)
        for place in [place for place in self._waiting if is_meant(place_in(place[0]))]:
            self._take(place)

    async def delete(self, is_meant: _IsMeant) -> Cleared:
        """Delete what is cached of places that are refused, and load them again unless some of it could not be deleted.

        Raises NoThread; then they stay refused, too.
        """
        if (store := self._store) is None:
            self._refused.remove(is_meant)
            return Cleared(0, 0, 0)
        if any(is_meant(place_in(key)) for key in self._writing):
            await self._written.wait()
        cleared = await self._in_thread(store.clear, is_meant, abandon_on_cancel=True)
        if not cleared.left_blocks:
            self._refused.remove(is_meant)
        return cleared

    async def delete_others(self, is_meant: _IsMeant, keys: Collection[bytes]) -> None:
        """Delete what is cached of places that are meant, except versions with these keys. Raises NoThread."""
        if self._store is not None:
            await self._in_thread(self._store.clear, is_meant, keys, abandon_on_cancel=True)

    async def _delete(self, store: BlockStore, key: bytes) -> None:
        """Delete the blocks of a version, if that is still to be done."""
        if key in self._doomed:
            await self._in_thread(store.discard, key)
            self._doomed.discard(key)

    async def held_bytes(self, key: bytes) -> int:
        """Return the bytes of a version that are cached or queued."""
        store = self._store
        if store is None:
            return 0
        waiting = sum(len(each.block.data) for (its_key, _), each in self._waiting.items() if its_key == key)
        with contextlib.suppress(NoThread):
            waiting += await self._in_thread(store.held_bytes, key)
        return waiting

    async def disk_room_bytes(self) -> int | None:
        """Return how large the cache can become on its disk, whatever its own limit; None where nothing tells."""
        with contextlib.suppress(NoThread):
            return await self._in_thread(self._store.disk_room_bytes) if self._store is not None else None
        return None

    def state(self) -> CacheState | None:
        """Return the state of the cache as of the last look (`look_soon`); None without a cache."""
        store = self._store
        if store is None:
            return None
        return CacheState(
            store.directory,
            store.total_bytes,
            store.limit_bytes,
            store.free_bytes,
            store.evicted_files,
            store.evicted_bytes,
            self._waiting_bytes,
            not self._stuck,
        )

    def look_soon(self) -> None:
        """Look in a thread how full the cache and its disk are. Never waits."""
        if self._store is not None:
            self._soon(self._store.look)

    def sweep_soon(self) -> None:
        """Delete in a thread the leftovers of killed mounts, and look. Never waits."""
        if self._store is not None:
            self._soon(self._store.sweep)

    def _soon(self, look: Callable[[], None]) -> None:
        if not self._looking:
            self._looking = True
            self._nursery.start_soon(self._look, look)

    async def _look(self, look: Callable[[], None]) -> None:
        try:
            await self._run_in_thread(look, limiter=self._looks, abandon_on_cancel=True)
        except NoThread as error:
            self._no_thread(error)
        except Exception:
            log.exception("looking at the cache's disk failed")
        finally:
            self._looking = False

    async def _in_thread(self, call: Callable[..., T], *args: object, abandon_on_cancel: bool = False) -> T:
        """Return the result of a call of the store. Raises NoThread, which is logged here."""
        try:
            result = await self._run_in_thread(call, *args, limiter=self._threads, abandon_on_cancel=abandon_on_cancel)
        except NoThread as error:
            self._no_thread(error)
            raise
        if self._without_threads:
            self._without_threads = False
            log.info("threads can be had again: the cache on disk is used again")
        return result

    def _no_thread(self, error: NoThread) -> None:
        if not self._without_threads:
            self._without_threads = True
            log.warning("%s; until one can, reading goes on without the cache on disk", error)

    async def flush(self) -> None:
        """Wait until everything given to `save` is written."""
        self._flushing += 1
        self._queued.notify()
        try:
            await self._idle.wait()
        finally:
            self._flushing -= 1

    async def flush_version(self, key: bytes) -> None:
        """Wait until no block of a version is queued: what was given to `save` is written, or could not be."""
        self._flushing += 1
        self._queued.notify()
        try:
            while any(its_key == key for its_key, _ in self._waiting):
                await self._written.wait()
        finally:
            self._flushing -= 1

    def _group_of(self, place: _Place, block: Block) -> _Place | None:
        if self._group_blocks == 1 or len(block.data) != self._tuning.block_bytes:
            return None
        return place[0], place[1] // self._group_blocks * self._group_blocks

    def _put(self, place: _Place, block: Block) -> None:
        group = self._group_of(place, block)
        wait_s = self._tuning.batch_wait_s if group is None else self._tuning.group_wait_s
        self._waiting[place] = _Waiting(block, trio.current_time() + wait_s)
        self._waiting_bytes += len(block.data)
        if group is not None:
            self._gathered[group] += 1
            if self._gathered[group] == self._group_blocks:
                self._groups[group] = None

    def _take(self, place: _Place) -> None:
        waiting = self._waiting.pop(place, None)
        if waiting is None:
            return
        self._waiting_bytes -= len(waiting.block.data)
        if (group := self._group_of(place, waiting.block)) is not None:
            self._groups.pop(group, None)
            self._gathered[group] -= 1
            if not self._gathered[group]:
                del self._gathered[group]

    def _next(self) -> tuple[list[_Place], _Save]:
        """Return the blocks to write now, and how: a group, or else blocks that have waited for theirs long enough."""
        if self._groups:
            key, first = next(iter(self._groups))
            return [(key, index) for index in range(first, first + self._group_blocks)], _save_group
        hurry = self._flushing > 0 or self._waiting_bytes > self._tuning.disk_queue_bytes // 2
        now = trio.current_time()
        due: list[_Place] = []
        due_bytes = 0
        for place, waiting in self._waiting.items():
            due_bytes += len(waiting.block.data)
            if not (hurry or waiting.due <= now) or (due and (len(due) == _BATCH or due_bytes > _BATCH_BYTES)):
                break
            due.append(place)
        return due, _save_all

    async def _write(self, store: BlockStore) -> None:
        try:
            while self._waiting:
                places, save = self._next()
                if not places:
                    with trio.move_on_at(next(iter(self._waiting.values())).due):
                        await self._queued.wait()
                    continue
                batch = [(place, self._waiting[place].block) for place in places]
                self._writing = frozenset(key for key, _ in places)
                kept = await self._in_thread(save, store, batch)
                self.room_bytes = store.max_bytes if kept else 0
                self._stuck = False
                for place, block in batch:
                    # Not if a longer one of the same block was queued meanwhile.
                    if place in self._waiting and self._waiting[place].block is block:
                        self._take(place)
                self._done_writing()
        except Exception as error:
            # A bug must not end the mount; a lack of threads is logged already.
            if not isinstance(error, NoThread):
                log.exception("writing to the cache failed; the blocks in the queue are not cached")
            self.room_bytes = 0
            for place in list(self._waiting):
                self._take(place)
        finally:
            self._done_writing()
            self._idle.set()

    def _done_writing(self) -> None:
        self._writing = frozenset()
        self._written.notify()


def _save_all(store: BlockStore, batch: Sequence[tuple[_Place, Block]]) -> bool:
    return store.save_all([NewFile(key, index, [block.data], block.stamp) for (key, index), block in batch])


def _save_group(store: BlockStore, batch: Sequence[tuple[_Place, Block]]) -> bool:
    (key, first), leader = batch[0]
    stamps = [block.stamp for _, block in batch]
    if len({(stamp.validator, stamp.content_stamp) for stamp in stamps}) > 1:
        return _save_all(store, batch)
    # A group is as old as its oldest block.
    stamp = msgspec.structs.replace(leader.stamp, fetched_at=min(stamp.fetched_at for stamp in stamps))
    return store.save(key, first, [block.data for _, block in batch], stamp)
