"""artifactfs.content.keeper: between readers and the disk. Threads are waits on a virtual clock here."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from artifactfs.content import keeper
from artifactfs.content.blocks import Block, BlockStore, Stamp
from artifactfs.content.keeper import Keeper

KEY = b"k" * 16
STAMP = Stamp(0.0, b"session!")


@dataclass
class Disk:
    """A BlockStore of which each thread's call takes `call_s` seconds; `works` None: it raises."""

    session: bytes = b"session!"
    max_bytes: int = 1000
    call_s: float = 0.0
    works: bool | None = True
    kept: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def load(self, key: bytes, index: int, accept: Callable[[Stamp], bool]) -> Block | None:
        data = self.kept.get((key, index))
        return Block(bytearray(data), STAMP) if data is not None and accept(STAMP) else None

    def save(self, key: bytes, index: int, data: bytearray, _stamp: Stamp) -> bool:
        if self.works is None:
            raise RuntimeError("a bug")
        if self.works:
            self.kept[key, index] = bytes(data)
        return self.works

    def discard(self, key: bytes) -> None:
        self.kept = {place: data for place, data in self.kept.items() if place[0] != key}


@asynccontextmanager
async def keeping(disk: Disk | None, monkeypatch: pytest.MonkeyPatch, queue: int = 100) -> AsyncIterator[Keeper]:
    async def run_sync(call: Callable[..., object], *args: object, limiter: object = None) -> object:
        await trio.sleep(disk.call_s if disk is not None else 0)
        return call(*args)

    monkeypatch.setattr(keeper, "_QUEUE_BYTES", queue)
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    async with trio.open_nursery() as nursery:
        made = Keeper(cast("BlockStore | None", disk), nursery)
        yield made
        await made.flush()
        assert made._waiting_bytes == 0
        assert not made._waiting


async def save(made: Keeper, index: int, data: bytes = b"0123456789") -> None:
    await made.save(KEY, index, bytearray(data), len(data), STAMP)


async def load(made: Keeper, *indices: int) -> list[bytes | None]:
    found = await made.load(KEY, indices, lambda _stamp: True)
    return [bytes(block.data) if block is not None else None for block in found]


async def test_what_waits_is_there(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.3: a block is found from the moment on that it was given to be kept, and when it is written."""
    disk = Disk(call_s=5)
    async with keeping(disk, monkeypatch) as made:
        await save(made, 0)
        assert not disk.kept
        assert await load(made, 0, 1) == [b"0123456789", None]
        await made.flush()
        assert disk.kept[KEY, 0] == b"0123456789"
        assert await load(made, 0, 1) == [b"0123456789", None]


async def test_only_the_bytes_that_came_are_kept(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.5: of a block that a glance began, what came; more of it replaces less, also while that is being written."""
    disk = Disk(call_s=5)
    async with keeping(disk, monkeypatch) as made:
        await made.save(KEY, 0, bytearray(b"abcd......"), 4, STAMP)
        await trio.sleep(1)
        await save(made, 0, b"abcdefghij")
        assert await load(made, 0) == [b"abcdefghij"]
        await made.flush()
        assert disk.kept[KEY, 0] == b"abcdefghij"


async def test_a_slow_disk_is_waited_for(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: as long as the disk gets on with it, a fetch waits for room and everything is kept."""
    disk = Disk(call_s=1.5)
    async with keeping(disk, monkeypatch) as made:
        for index in range(100):
            await save(made, index)
            assert made._waiting_bytes <= 110
    assert len(disk.kept) == 100


async def test_a_stuck_disk_costs_one_wait(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: a disk that hangs costs the fetches two seconds in all, not each; when it moves again, they keep again."""
    disk = Disk(call_s=600)
    async with keeping(disk, monkeypatch) as made:
        for index in range(11):
            await save(made, index)
        before = trio.current_time()
        for index in range(11, 100):
            await save(made, index)
        assert trio.current_time() - before == 2
        disk.call_s = 0.1
        await trio.sleep(600)
        await save(made, 200)
    assert (KEY, 200) in disk.kept


async def test_a_disk_that_keeps_nothing_has_no_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.4: who counts on the disk is told that nothing fits on it, until something does."""
    disk = Disk(works=False)
    async with keeping(disk, monkeypatch) as made:
        assert made.room_bytes == 1000
        await save(made, 0)
        await made.flush()
        assert made.room_bytes == 0
        disk.works = True
        await save(made, 1)
        await made.flush()
        assert made.room_bytes == 1000


async def test_a_bug_in_writing_ends_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5: whatever goes wrong in writing is logged; the mount, and its keeping, go on."""
    disk = Disk(works=None)
    async with keeping(disk, monkeypatch) as made:
        await save(made, 0)
        await made.flush()
        assert "RuntimeError" in caplog.text
        disk.works = True
        await save(made, 1)
    assert list(disk.kept) == [(KEY, 1)]


async def test_what_is_discarded_is_gone(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.1: a version that is superseded is neither on the disk nor waiting for it."""
    disk = Disk(call_s=1)
    async with keeping(disk, monkeypatch) as made:
        await save(made, 0)
        await made.flush()
        await save(made, 1)
        await made.discard(KEY)
        assert await load(made, 0) == [None]
        await made.flush()


async def test_without_a_store(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: without a cache nothing is ever there, and nothing waits."""
    async with keeping(None, monkeypatch) as made:
        await save(made, 0)
        await made.discard(KEY)
        assert await load(made, 0) == [None]
        assert made.room_bytes == 0
