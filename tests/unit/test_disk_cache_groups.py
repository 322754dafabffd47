"""artifactfs.content.disk_cache: blocks that are written together, as a group or by one call."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs.content.block_format import Provenance
from tests.disk_caches import BLOCK, KEY, STAMP, Disk, keeping, load, save


def written(disk: Disk) -> list[tuple[float, int, int]]:
    """Return when what was written: seconds, the first block's index, how many."""
    return [(when, first, count) for when, _, first, count, _ in disk.writes]


async def test_a_whole_group_is_written_at_once(autojump_clock: MockClock) -> None:
    """4.4: blocks of one group, in whatever order they came, are one file, without a wait."""
    disk = Disk()
    async with keeping(disk, queue=1000, block_bytes=len(BLOCK)) as made:
        for index in (6, 4, 8, 7, 5):
            await save(made, index)
        await wait_all_tasks_blocked()
        assert written(disk) == [(0, 4, 4)]
        assert await load(made, *range(3, 10)) == [None, *[BLOCK] * 5, None]


async def test_a_group_that_is_not_whole_in_time(autojump_clock: MockClock) -> None:
    """4.4: half a second after it came a block is written without the others; one that comes before makes a group."""
    disk = Disk()
    async with keeping(disk, queue=1000, block_bytes=len(BLOCK)) as made:
        for index in (0, 1, 4, 5, 6):
            await save(made, index)
        await trio.sleep(0.4)
        await save(made, 7)
        await save(made, 2)
        await trio.sleep(0.09)
        assert written(disk) == [(0.4, 4, 4)]
        await trio.sleep(0.02)
        assert written(disk) == [(0.4, 4, 4), (0.5, 0, 1), (0.5, 1, 1)]
        # Too late for the group, and not to be lost.
        await save(made, 3)
        await trio.sleep(1)
        assert written(disk)[3:] == [(0.9, 2, 1), pytest.approx((1.01, 3, 1))]


async def test_the_end_of_a_file_waits_for_nothing(autojump_clock: MockClock) -> None:
    """4.4: what can be in no group is written at once: a short block, and all of a store without groups."""
    disk = Disk()
    async with keeping(disk, block_bytes=len(BLOCK)) as made:
        await save(made, 0, b"short")
        await wait_all_tasks_blocked()
        assert written(disk) == [(0, 0, 1)]
    disk = Disk(group_blocks=1)
    async with keeping(disk, block_bytes=len(BLOCK)) as made:
        for index in range(4):
            await save(made, index)
        await wait_all_tasks_blocked()
        assert written(disk) == [(0, index, 1) for index in range(4)]


async def test_a_flush_does_not_wait_for_groups(autojump_clock: MockClock) -> None:
    """4.4: what was given to be kept before the mount ends is kept, at once; what comes after waits as ever."""
    disk = Disk()
    async with keeping(disk, block_bytes=len(BLOCK)) as made:
        await save(made, 0)
        await save(made, 1)
        await made.flush()
        assert written(disk) == [(0, 0, 1), (0, 1, 1)]
        await save(made, 4)
        await trio.sleep(1)
        assert written(disk)[2:] == [(0.5, 4, 1)]


async def test_several_flushes(autojump_clock: MockClock) -> None:
    """4.4: each ends when all is written, whatever becomes of the others; none is slowed down by the end of another."""
    disk = Disk(call_s=1)
    async with keeping(disk, block_bytes=len(BLOCK)) as made:
        await save(made, 0)

        async def again() -> None:
            await made._idle.wait()
            # In the moment in which the others end.
            await save(made, 4)
            await made.flush()
            assert trio.current_time() == 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(again)
            for _ in range(3):
                nursery.start_soon(made.flush)
            with trio.move_on_after(0.5) as given_up:
                await made.flush()
        assert given_up.cancelled_caught
        assert len(disk.kept) == 2
        disk.call_s = 0
        await save(made, 8)
        await trio.sleep(1)
        assert written(disk) == [(1, 0, 1), (2, 4, 1), (2.5, 8, 1)]


async def test_a_queue_that_fills_does_not_wait_for_groups(autojump_clock: MockClock) -> None:
    """4.4: more than half of the room for what waits is not spent on blocks that may never be a group."""
    disk = Disk()
    async with keeping(disk, queue=400, block_bytes=len(BLOCK)) as made:
        for index in range(20):
            await save(made, index * 4)
        await wait_all_tasks_blocked()
        assert not disk.writes
        await save(made, 80)
        await wait_all_tasks_blocked()
        # A batch, the oldest; then the rest has room to wait.
        assert written(disk) == [(0, index * 4, 1) for index in range(16)]
        await trio.sleep(1)
        assert written(disk)[16:] == [(0.5, index * 4, 1) for index in range(16, 21)]


async def test_small_blocks_are_written_together(autojump_clock: MockClock) -> None:
    """Blocks of small files wait a moment for each other, and go to the disk in one call, unless they are large."""
    disk = Disk()
    async with keeping(disk, queue=8 << 20, batch_wait_s=0.05) as made:
        for index in range(3):
            await save(made, 0, bytes(10), key=bytes([index]) * 16)
        await trio.sleep(0.04)
        assert not disk.batches
        assert (await made.load(bytes(16), [0], lambda _: True))[0] is not None
        await trio.sleep(0.02)
        assert disk.batches == [3]
        for index in range(3):
            await save(made, 0, bytes(300_000), key=bytes([index]) * 16)
        await made.flush()
        assert disk.batches == [3, 1, 1, 1]


async def test_what_is_not_of_one_group(autojump_clock: MockClock) -> None:
    """4.1, 4.3: blocks of two files, or that came with two validators or of two states of a run, are kept singly."""
    run, validator = (
        Provenance(0.0, b"session!", content_stamp=b"r" * 16),
        Provenance(0.0, b"session!", validator=b"v" * 16),
    )
    for other in (run, validator):
        disk = Disk()
        async with keeping(disk, block_bytes=len(BLOCK)) as made:
            for index in range(4):
                await save(made, index, stamp=other if index == 2 else STAMP)
        assert [(first, count, stamp) for _, _, first, count, stamp in disk.writes] == [
            (index, 1, other if index == 2 else STAMP) for index in range(4)
        ]
    disk = Disk()
    async with keeping(disk, block_bytes=len(BLOCK)) as made:
        for index in range(4):
            await save(made, index, key=KEY if index else b"other version 16")
        await wait_all_tasks_blocked()
        assert not disk.writes
    assert [count for *_, count, _ in disk.writes] == [1] * 4


async def test_a_group_is_as_old_as_its_oldest(autojump_clock: MockClock) -> None:
    """4.3: no block of a group stays fresh for longer than it would be alone."""
    disk = Disk()
    async with keeping(disk, block_bytes=len(BLOCK)) as made:
        for index, when in enumerate((7.0, 5.0, 6.0, 8.0)):
            await save(made, index, stamp=Provenance(when, b"session!", b"v" * 16, b"r" * 16))
    assert [stamp for *_, stamp in disk.writes] == [Provenance(5.0, b"session!", b"v" * 16, b"r" * 16)]


async def test_blocks_that_come_again(autojump_clock: MockClock) -> None:
    """4.3: what comes again while it waits, or while its group is written, is kept as it came last, and counts once."""
    disk = Disk(call_s=5)
    async with keeping(disk, queue=1000, block_bytes=len(BLOCK)) as made:
        await save(made, 0, b"01234")
        await wait_all_tasks_blocked()
        for index in (1, 1, 2, 2, 0):
            await save(made, index)
        assert not made._groups
        await save(made, 3)
        assert list(made._groups) == [(KEY, 0)]
        await trio.sleep(7)  # the group is being written, after the short block
        assert len(disk.writes) == 1
        await save(made, 1, b"another...")
        assert await load(made, 1) == [b"another..."]
        await made.flush()
        assert [disk.kept[KEY, index] for index in range(4)] == [BLOCK, b"another...", BLOCK, BLOCK]
        assert [(first, count) for _, first, count in written(disk)] == [(0, 1), (0, 4), (1, 1)]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("gives_up", [False, True])
async def test_what_is_discarded_while_it_is_written(autojump_clock: MockClock, count: int, gives_up: bool) -> None:
    """4.1: what a thread is writing of a version goes, too, also if no caller waits for it to go; others stay."""
    disk = Disk(call_s=3)
    async with keeping(disk, queue=1000, block_bytes=len(BLOCK)) as made:
        await save(made, 0, b"short", key=b"other version 16")
        for index in range(count):
            await save(made, index, BLOCK if count > 1 else b"short")
        await save(made, 9)
        await trio.sleep(3.5 if count > 1 else 2)
        disk.call_s = 0  # for what begins now
        with trio.move_on_after(0.1 if gives_up else 100):
            await made.discard(KEY)
            assert await load(made, *range(10)) == [None] * 10
        await made.flush()
    assert list(disk.kept) == [(b"other version 16", 0)]


async def test_a_bug_in_writing_lets_others_go_on(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """4.4, 5.5: a caller that waits for room has it at once, groups are counted again, and what comes then is kept."""
    disk = Disk(works=None, call_s=1)
    async with keeping(disk, queue=50, block_bytes=len(BLOCK)) as made:
        for index in range(6):
            await save(made, index)
        await save(made, 6)
        assert trio.current_time() == 1
        assert "RuntimeError" in caplog.text
        disk.works = True
        await save(made, 7)
        await save(made, 4)
        await save(made, 5)
        await made.flush()
        assert [(first, count) for _, first, count in written(disk)] == [(4, 4)]
