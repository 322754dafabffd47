"""artifactfs.content.disk_cache: between readers and the disk. Threads are waits on a virtual clock here."""

import pytest
import trio
from trio.testing import MockClock

from tests.disk_caches import KEY, STAMP, Disk, keeping, load, save


async def test_what_waits_is_there(autojump_clock: MockClock) -> None:
    """4.3: a block is found from the moment on that it was given to be kept, and when it is written."""
    disk = Disk(call_s=5)
    async with keeping(disk) as made:
        await save(made, 0)
        assert not disk.kept
        assert await load(made, 0, 1) == [b"0123456789", None]
        await made.flush()
        assert disk.kept[KEY, 0] == b"0123456789"
        assert await load(made, 0, 1) == [b"0123456789", None]


async def test_what_waits_for_room_is_there(autojump_clock: MockClock) -> None:
    """4.4: also where a fetch waits for the disk: memory may evict the block in that time."""
    async with keeping(Disk(call_s=1)) as made, trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(save, made, index)
        await trio.sleep(0.1)
        assert await load(made, *range(20)) == [b"0123456789"] * 20
        assert trio.current_time() == pytest.approx(0.1)


async def test_only_the_bytes_that_came_are_kept(autojump_clock: MockClock) -> None:
    """4.5: of a block that a glance began, what came; more of it replaces less, also while that is being written."""
    disk = Disk(call_s=5)
    async with keeping(disk) as made:
        made.queue(KEY, 0, bytearray(b"abcd......"), 4, STAMP)
        await trio.sleep(1)
        await save(made, 0, b"abcdefghij")
        assert await load(made, 0) == [b"abcdefghij"]
        await made.flush()
        assert disk.kept[KEY, 0] == b"abcdefghij"


async def test_a_slow_disk_is_waited_for(autojump_clock: MockClock) -> None:
    """4.4: as long as the disk gets on with it, a fetch waits for room and everything is kept."""
    disk = Disk(call_s=1.5)
    async with keeping(disk) as made:
        for index in range(100):
            await save(made, index)
            assert made._waiting_bytes <= 110
    assert len(disk.kept) == 100


async def test_a_stuck_disk_costs_one_wait(autojump_clock: MockClock) -> None:
    """4.4: a disk that hangs costs the fetches two seconds in all, not each; when it moves again, they keep again."""
    disk = Disk(call_s=600)
    async with keeping(disk) as made:
        for index in range(10):
            await save(made, index)
        before = trio.current_time()
        for index in range(10, 100):
            await save(made, index)
        assert trio.current_time() - before == 2
        disk.call_s = 0.1
        await trio.sleep(600)
        await save(made, 200)
    assert (KEY, 200) in disk.kept


async def test_a_disk_that_keeps_nothing_has_no_room(autojump_clock: MockClock) -> None:
    """4.4: a reader that counts on the disk learns that nothing fits on it, until something does."""
    disk = Disk(works=False)
    async with keeping(disk) as made:
        assert made.room_bytes == 1000
        await save(made, 0)
        await made.flush()
        assert made.room_bytes == 0
        disk.works = True
        await save(made, 1)
        await made.flush()
        assert made.room_bytes == 1000


async def test_a_bug_in_writing_ends_nothing(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """5.5: whatever goes wrong in writing is logged; the mount, and its keeping, go on."""
    disk = Disk(works=None)
    async with keeping(disk) as made:
        await save(made, 0)
        await made.flush()
        assert "RuntimeError" in caplog.text
        disk.works = True
        await save(made, 1)
    assert list(disk.kept) == [(KEY, 1)]


async def test_what_is_discarded_is_gone(autojump_clock: MockClock) -> None:
    """4.1: a version that is superseded is not on the disk, nor waiting for it, nor for room to wait for it."""
    disk = Disk(call_s=1)
    async with keeping(disk, queue=15) as made:
        await save(made, 0)
        await made.flush()
        async with trio.open_nursery() as nursery:
            for index in (1, 2, 3):
                nursery.start_soon(save, made, index)
            await trio.sleep(0.1)
            await made.discard(KEY)
        assert await load(made, 0, 1, 2, 3) == [None] * 4
        await made.flush()


async def test_without_a_store(autojump_clock: MockClock) -> None:
    """4.4: without a cache nothing is ever there, and nothing waits."""
    async with keeping(None) as made:
        await save(made, 0)
        await made.discard(KEY)
        assert await load(made, 0) == [None]
        assert made.room_bytes == 0
