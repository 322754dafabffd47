"""Between readers and the cache on disk: loads and saves blocks in threads, so that the loop never waits for a disk.

Saving is behind the readers and bounded: where the disk is slower than the network, a fetch waits a little for it,
then goes on without keeping (semantics 4.4: a cache costs speed, never a read).
"""

import itertools
import logging
from collections.abc import Callable, Sequence

import trio

from artifactfs.content.blocks import Block, BlockStore, Stamp

log = logging.getLogger(__name__)

# Threads at the disk at once: one to read while one writes, on each of two cores. Arbitrary.
_THREADS = 4
# Bytes waiting to be written, and how long a fetch waits for any of them to be.
_QUEUE_BYTES = 24 << 20
_ROOM_WAIT_S = 2.0
# Blocks written by one call of a thread: each call costs the loop about 0.1 ms.
_BATCH = 8


class Keeper:
    """Loads and saves blocks of one store; without a store nothing is ever there."""

    def __init__(self, store: BlockStore | None, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._threads = trio.CapacityLimiter(_THREADS)
        # Not yet written, in order; what is in here is there for `load` already.
        self._waiting: dict[tuple[bytes, int], Block] = {}
        self._waiting_bytes = 0
        self._room = trio.Event()
        # The disk has done nothing while a fetch waited for it: none waits until it has.
        self._stuck = False
        # What fits on the disk; 0 where what was saved of late was not kept.
        self.room_bytes = store.max_bytes if store is not None else 0
        self._idle = trio.Event()
        self._idle.set()
        self.session = store.session if store is not None else b""

    async def load(self, key: bytes, indices: Sequence[int], accept: Callable[[Stamp], bool]) -> list[Block | None]:
        """Return the blocks that are kept and accepted, None for each other one."""
        store = self._store
        if store is None or not indices:
            return [None] * len(indices)
        waiting = [self._waiting.get((key, index)) for index in indices]

        def load_all() -> list[Block | None]:
            return [block or store.load(key, index, accept) for index, block in zip(indices, waiting, strict=True)]

        return await trio.to_thread.run_sync(load_all, limiter=self._threads)

    async def save(self, key: bytes, index: int, data: bytearray, size: int, stamp: Stamp) -> None:
        """Keep the first `size` bytes of a block, soon. Waits a little where the disk does not keep up."""
        if self._store is None:
            return
        while self._waiting_bytes > _QUEUE_BYTES:
            with trio.move_on_after(0 if self._stuck else _ROOM_WAIT_S) as waited:
                await self._room.wait()
            if waited.cancelled_caught:
                if not self._stuck:
                    log.info("the cache's disk does not keep up: not everything is kept")
                self._stuck = True
                return
        # no await below:
        self._take((key, index))
        self._waiting[key, index] = Block(data if size == len(data) else data[:size], stamp)
        self._waiting_bytes += size
        if self._idle.is_set():
            self._idle = trio.Event()
            self._nursery.start_soon(self._write, self._store)

    async def discard(self, key: bytes) -> None:
        """Delete every kept block of a version."""
        if self._store is not None:
            for place in [place for place in self._waiting if place[0] == key]:
                self._take(place)
            await trio.to_thread.run_sync(self._store.discard, key, limiter=self._threads)

    async def flush(self) -> None:
        """Wait until everything given to `save` is written."""
        await self._idle.wait()

    def _take(self, place: tuple[bytes, int]) -> None:
        block = self._waiting.pop(place, None)
        if block is not None:
            self._waiting_bytes -= len(block.data)

    async def _write(self, store: BlockStore) -> None:
        try:
            while self._waiting:
                batch = list(itertools.islice(self._waiting.items(), _BATCH))
                kept = await trio.to_thread.run_sync(_save_all, store, batch, limiter=self._threads)
                self.room_bytes = store.max_bytes if kept else 0
                self._stuck = False
                for place, block in batch:
                    # Unless a longer one of the same block has come in the meantime.
                    if self._waiting.get(place) is block:
                        self._take(place)
                room, self._room = self._room, trio.Event()
                room.set()
        except Exception:
            # No thread to be had, or a bug: not a reason to end the mount.
            log.exception("writing to the cache failed; what waits for it is not kept")
            self.room_bytes = 0
            self._waiting.clear()
            self._waiting_bytes = 0
        finally:
            self._idle.set()


def _save_all(store: BlockStore, batch: Sequence[tuple[tuple[bytes, int], Block]]) -> bool:
    kept = [store.save(key, index, block.data, block.stamp) for (key, index), block in batch]
    return all(kept)
