"""What the tests of the disk cache share: a disk, and a cache on it. Threads are waits on a virtual clock here."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import trio

from artifactfs.content.block_format import Block, Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.block_writes import NewFile
from artifactfs.content.content_tuning import BLOCK_BYTES, ContentTuning
from artifactfs.content.disk_cache import DiskCache

T = TypeVar("T")

KEY = b"k" * 16
STAMP = Provenance(0.0, b"session!")
BLOCK = b"0123456789"


@dataclass
class Disk:
    """A BlockStore of which each thread's call takes `call_s` seconds; `works` None: it raises.

    `writes`: what was written, as (when, key, first index, number of blocks, stamp); `batches`: the number
    of files in each call that wrote several.
    """

    session: bytes = b"session!"
    max_bytes: int = 1000
    group_blocks: int = 4
    call_s: float = 0.0
    works: bool | None = True
    kept: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    writes: list[tuple[float, bytes, int, int, Provenance]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def load(self, key: bytes, indices: Sequence[int], accept: Callable[[Provenance], bool]) -> list[Block | None]:
        found = [self.kept.get((key, index)) for index in indices]
        return [Block(bytearray(data), STAMP) if data is not None and accept(STAMP) else None for data in found]

    def save(self, key: bytes, first: int, group: Sequence[bytes | bytearray], stamp: Provenance) -> bool:
        if self.works is None:
            raise RuntimeError("a bug")
        if self.works:
            self.writes.append((trio.current_time(), key, first, len(group), stamp))
            self.kept.update(((key, index), bytes(data)) for index, data in enumerate(group, first))
        return self.works

    def save_all(self, files: Sequence[NewFile]) -> bool:
        self.batches.append(len(files))
        kept = [self.save(file.key, file.first, [bytes(block) for block in file.blocks], file.stamp) for file in files]
        return all(kept)

    def discard(self, key: bytes) -> None:
        self.kept = {place: data for place, data in self.kept.items() if place[0] != key}


@asynccontextmanager
async def keeping(
    disk: Disk | None, *, queue: int = 100, block_bytes: int = BLOCK_BYTES, batch_wait_s: float = 0.0
) -> AsyncIterator[DiskCache]:
    async def run(call: Callable[..., T], *args: object, **_: object) -> T:
        await trio.sleep(disk.call_s if disk is not None else 0)
        return call(*args)

    tuning = ContentTuning(block_bytes=block_bytes, disk_queue_bytes=queue, batch_wait_s=batch_wait_s)
    async with trio.open_nursery() as nursery:
        made = DiskCache(cast("BlockStore | None", disk), nursery, tuning, run)
        yield made
        await made.flush()
        assert made.is_idle


async def save(made: DiskCache, index: int, data: bytes = BLOCK, key: bytes = KEY, stamp: Provenance = STAMP) -> None:
    """Save a block as a fetch does: queue it, then wait for room."""
    made.queue(key, index, bytearray(data), len(data), stamp)
    await made.wait_for_room()


async def load(made: DiskCache, *indices: int) -> list[bytes | None]:
    """Return the blocks that are there, or wait to be."""
    found = await made.load(KEY, indices, lambda _stamp: True)
    return [bytes(block.data) if block is not None else None for block in found]
