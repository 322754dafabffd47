"""artifactfs.content: what is asked of a server, what is read of it, and what is kept, case by case, in small."""

from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.content.reader import OpenFile
from tests.content_harness import BLOCK, DEADLINE_S, GLANCE, TUNING, Server, bench, noise

SIZE = 40 * BLOCK + 123
DATA = noise(SIZE)
NEW = noise(SIZE, seed=1)
A, B = b"A" * 16, b"B" * 16


async def read_all(handle: OpenFile, size: int = SIZE) -> bytes:
    """Read a file as a sequential reader does, by pieces."""
    return b"".join([bytes(await handle.read(at, 300)) for at in range(0, size, 300)])


async def test_a_glance(autojump_clock: MockClock) -> None:
    """4.5: a few bytes at the start of a file cost one request of a glance; the next of them nothing."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await handle.read(0, 30) == DATA[:30]
        assert await handle.read(100, 100) == DATA[100:200]
        handle.close()
    assert server.asked == [(0, GLANCE)]


async def test_a_random_read(autojump_clock: MockClock) -> None:
    """4.5: reads at distant places cost what a glance does, or what they ask for if that is more."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        for at, count in ((30 * BLOCK + 7, 50), (10 * BLOCK - 7, 50), (20 * BLOCK - 7, 300)):
            assert await handle.read(at, count) == DATA[at : at + count]
        handle.close()
    assert server.asked == [
        (30 * BLOCK, 30 * BLOCK + GLANCE),
        (10 * BLOCK - GLANCE, 10 * BLOCK + GLANCE),
        (20 * BLOCK - 7, 20 * BLOCK + 293),
    ]


async def test_a_sequential_reader(autojump_clock: MockClock) -> None:
    """4.3, 4.5: from start to end costs each byte once, in few requests."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        assert await handle.read(SIZE, 10) == b""
        handle.close()
    assert server.sent == SIZE
    assert len(server.asked) < 12


async def ahead_of(handle: OpenFile, server: Server, start: int, count: int) -> list[tuple[int, int]]:
    """Read so many blocks from `start` on in pieces; return after each what was read, and what was fetched ahead of it.

    What is fetched to the end of a block does not count.
    """
    found = []
    for end in range(start + 300, start + count * BLOCK, 300):
        assert await handle.read(end - 300, 300) == DATA[end - 300 : end]
        await wait_all_tasks_blocked()
        ahead = max(to for _, to in server.asked) - end
        found.append((end - start, max(0, ahead - BLOCK)))
    return found


async def test_the_window_of_a_read_from_the_start(autojump_clock: MockClock) -> None:
    """4.5: a whole file may be wanted, so four blocks are fetched, then twice what was read; never more."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        found = await ahead_of(handle, server, 0, 12)
        handle.close()
    assert all(ahead <= 2 * read or read + ahead <= 4 * BLOCK for read, ahead in found)
    assert any(ahead > read > 4 * BLOCK for read, ahead in found)


async def test_the_window_of_a_read_from_the_middle(autojump_clock: MockClock) -> None:
    """4.5: one tensor may be what he wants, so little is fetched ahead until he has read a lot; then twice as much."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        found = await ahead_of(handle, server, 3 * BLOCK, 14)
        handle.close()
    # Half a block, and `ahead_of` leaves out a whole one.
    assert max(ahead for read, ahead in found if read < 9 * BLOCK) == 0
    assert all(ahead <= 2 * read for read, ahead in found)
    assert any(ahead > read for read, ahead in found)


async def test_a_first_read_and_its_window_are_one_request(autojump_clock: MockClock) -> None:
    """4.3: what a reader begins with is not asked for in two pieces; nor what follows a glance, or a read elsewhere."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        await handle.read(0, GLANCE)
        handle.close()
        await handle.read(GLANCE, GLANCE)
        handle.close()
        assert server.asked == [(0, GLANCE), (GLANCE, 4 * BLOCK)]

        server.asked.clear()
        handle = await made.open(SIZE, "p/artifacts/glance.bin")
        await handle.read(0, 100)
        await handle.read(100, 200)
        handle.close()
        assert server.asked == [(0, GLANCE), (GLANCE, 4 * BLOCK)]

        server.asked.clear()
        handle = await made.open(SIZE, "p/artifacts/middle.bin")
        await handle.read(10 * BLOCK, BLOCK)
        await handle.read(11 * BLOCK, 300)
        handle.close()
        assert server.asked == [(10 * BLOCK, 11 * BLOCK), (11 * BLOCK, 11 * BLOCK + 300 + BLOCK // 2)]


async def test_without_a_budget_only_what_is_read_is_fetched(autojump_clock: MockClock) -> None:
    """4.5: while others have all that may be fetched ahead, who has used up his first window gets no other."""
    server = Server(DATA)
    async with bench(server) as made:
        give_back = made.shop.budget.take(32 * BLOCK)
        assert give_back is not None
        handle = await made.open(SIZE)
        for at in range(0, 10 * BLOCK, 256):
            await handle.read(at, 256)
        handle.close()
        give_back()
    assert server.asked == [
        (0, GLANCE),
        (GLANCE, 4 * BLOCK),
        *((at * BLOCK, (at + 1) * BLOCK) for at in range(4, 10)),
    ]


async def test_the_blocks_ahead_of_cached_ones(autojump_clock: MockClock) -> None:
    """4.2: where a sequential reader finds what he asks for, what comes then is fetched all the same, and at once."""
    server = Server(DATA)
    async with bench(server) as made:
        first, second = await made.open(SIZE), await made.open(SIZE)
        await first.read(10 * BLOCK, 2 * BLOCK)
        assert server.asked == [(10 * BLOCK, 12 * BLOCK)]

        server.asked.clear()
        for at in range(10 * BLOCK, 12 * BLOCK - 300, 300):
            await second.read(at, 300)
        await wait_all_tasks_blocked()
        assert server.asked == [(12 * BLOCK, server.asked[0][1])]
        first.close()
        second.close()


def kept_in(directory: Path) -> list[str]:
    """Return the names of the files that hold blocks."""
    return sorted(file.name for file in directory.glob("blocks-1/*/*/*"))


async def test_a_file_that_is_read_whole_is_kept_in_groups(autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.3, 4.4: eight blocks make a file of the cache, what is left at the end one each; a later mount serves them."""
    for _ in range(2):
        server = Server(DATA, validator=lambda: A)
        # With room for all: where it gets short, blocks do not wait for their group.
        roomy = msgspec.structs.replace(TUNING, disk_queue_bytes=4 * SIZE, group_wait_s=60.0)
        async with bench(server, directory=str(tmp_path), tuning=roomy) as made:
            handle = await made.open(SIZE)
            assert await read_all(handle) == DATA
            handle.close()
            await made.keeper.flush()
        assert kept_in(tmp_path) == sorted([*(f"{first:08x}-group" for first in range(0, 40, 8)), f"{40:08x}"])
    assert not server.asked


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("disk", [True, False])
async def test_a_server_without_ranges_is_asked_once(
    autojump_clock: MockClock, tmp_path: Path, told: bool, knows_size: bool, disk: bool
) -> None:
    """4.2: readers at several places of a body that comes as a whole share one, also one far larger than memory."""
    server = Server(DATA, granted=False, told=told)
    async with bench(server, directory=str(tmp_path) if disk else None) as made:
        handles = [await made.open(SIZE if knows_size else None) for _ in range(4)]
        async with trio.open_nursery() as nursery:

            async def look(handle: OpenFile, at: int) -> None:
                assert bytes(await handle.read(at, 900)) == DATA[at : at + 900]

            for number, handle in enumerate(handles):
                nursery.start_soon(look, handle, number * 9 * BLOCK + 5)
        assert await read_all(handles[0]) == DATA
        for handle in handles:
            handle.close()
    assert len(server.asked) == 1
    assert server.sent == SIZE


async def test_a_large_body_without_ranges_and_without_a_cache(autojump_clock: MockClock) -> None:
    """4.2: a sequential reader of a body that fits nowhere is streamed to: once, with a few blocks of memory."""
    server = Server(DATA, granted=False)
    async with bench(server, pool=12 * BLOCK) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()
    assert len(server.asked) == 1


async def test_a_step_back_starts_a_body_again(autojump_clock: MockClock) -> None:
    """4.2: what neither cache nor memory kept of a body comes again, and the read is right."""
    server = Server(DATA, granted=False)
    async with bench(server, pool=4 * BLOCK) as made:
        handle = await made.open(SIZE)
        assert await handle.read(35 * BLOCK, 100) == DATA[35 * BLOCK : 35 * BLOCK + 100]
        assert await handle.read(0, 100) == DATA[:100]
        handle.close()
    assert len(server.asked) == 2


async def test_a_stream_without_readers_gives_its_place_back(autojump_clock: MockClock) -> None:
    """4.4: a body whose reader stands still is let go: soon where others wait for its place."""
    server = Server(DATA, granted=False)
    async with bench(server, pool=8 * BLOCK) as made:
        handle = await made.open(SIZE)
        assert await handle.read(3 * BLOCK, 100) == DATA[3 * BLOCK : 3 * BLOCK + 100]
        await trio.sleep(10)
        assert server.open_bodies == 1
        server.is_saturated = True
        await trio.sleep(1.5)
        assert server.open_bodies == 0
        server.is_saturated = False
        assert await read_all(handle) == DATA
        handle.close()


async def test_a_spool_whose_place_is_wanted_runs_to_its_end(autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.3: where the disk takes it, a body whose place others want is fetched to its end, and not again."""
    server = Server(DATA, granted=False)
    async with bench(server, pool=8 * BLOCK, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        assert await handle.read(3 * BLOCK, 100) == DATA[3 * BLOCK : 3 * BLOCK + 100]
        server.is_saturated = True
        await trio.sleep(5)
        assert server.open_bodies == 0
        assert await read_all(handle) == DATA
        handle.close()
    assert len(server.asked) == 1
    assert server.sent == SIZE


async def test_a_longer_body_is_seen_before_its_last_byte_counts(autojump_clock: MockClock) -> None:
    """4.1: a body of unknown length that goes on past the file's size is another version: no reader gets to the end."""
    server = Server(DATA, granted=False, told=False, extra=b"and more", chunk=SIZE)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.Superseded):
            await handle.read(SIZE - 10, 10)
        handle.close()


async def test_a_body_that_ends_early(autojump_clock: MockClock) -> None:
    """4.1: a body that ends in order before the file's size is tried again, then fails: never a short file."""
    server = Server(DATA, granted=False, told=False, ends=[5000] * 50)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await handle.read(0, 100) == DATA[:100]
        with pytest.raises(errors.ShortBody):
            await handle.read(SIZE - 10, 10)
        handle.close()


@pytest.mark.parametrize("granted", [True, False])
async def test_a_body_that_breaks_off_is_resumed(autojump_clock: MockClock, granted: bool) -> None:
    """4.1, 4.3: with ranges from the byte where it broke; without, from the start, as long as it gets further."""
    server = Server(DATA, granted=granted, cuts=[2000, 9000, None, 17, None])
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == DATA
        handle.close()
    if granted:
        assert server.sent == SIZE


async def test_a_body_that_never_gets_further_fails(autojump_clock: MockClock) -> None:
    """5.1: answers that bring nothing new are tried four times."""
    server = Server(DATA, granted=False, cuts=[600] * 50)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.ConnectionLost):
            await handle.read(5000, 10)
        assert len(server.asked) == 4
        handle.close()


async def test_a_stall_ends_with_the_deadline(autojump_clock: MockClock) -> None:
    """5.1: no read waits longer than the deadline without progress; a server that answers again is read again."""
    server = Server(DATA, stall=True)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        before = trio.current_time()
        with pytest.raises(errors.TimedOut):
            await handle.read(0, 100)
        assert trio.current_time() - before == DEADLINE_S
        handle.close()
        await wait_all_tasks_blocked()
        server.stall = False
        handle = await made.open(SIZE)
        assert await handle.read(0, 100) == DATA[:100]
        handle.close()


async def test_a_drip_is_no_progress(autojump_clock: MockClock) -> None:
    """5.1: a byte now and then is no progress; a slow server that gets on with it is waited for."""
    server = Server(DATA, chunk=1, pause_s=2)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        with pytest.raises(errors.TimedOut):
            await handle.read(0, 200)
        handle.close()
    server = Server(DATA, chunk=40, pause_s=20)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await handle.read(0, 200) == DATA[:200]
        handle.close()


async def test_a_drip_is_waited_for_once(autojump_clock: MockClock) -> None:
    """5.1: the kernel asks again at once, and in pieces, for what has just failed: that is one wait, though a byte came
    in between. What is there meanwhile is read; after five seconds it is tried again."""
    server = Server(DATA, chunk=1, pause_s=2)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        begun = trio.current_time()
        with pytest.raises(errors.TimedOut):
            await handle.read(0, 200)
        for _ in range(4):
            await trio.sleep(1.2)
            with pytest.raises(errors.TimedOut):
                await handle.read(0, 200)
        assert trio.current_time() - begun == pytest.approx(DEADLINE_S + 4 * 1.2)
        assert await handle.read(0, 10) == DATA[:10]
        await trio.sleep(0.3)
        with pytest.raises(errors.TimedOut):
            await handle.read(0, 200)
        assert trio.current_time() - begun == pytest.approx(2 * DEADLINE_S + 4 * 1.2 + 0.3)
        handle.close()


async def test_closing_ends_what_has_not_begun(autojump_clock: MockClock) -> None:
    """4.5: a fetch that was asked for and not yet sent is not sent for a file that is not open."""
    server = Server(DATA)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await handle.read(0, 900) == DATA[:900]
        asked = len(server.asked)
        with trio.CancelScope() as given_up:
            given_up.cancel()
            await handle.read(5 * BLOCK, 4 * BLOCK)
        handle.close()
        await wait_all_tasks_blocked()
        assert len(server.asked) <= asked + 1
        assert server.open_bodies == 0


async def test_only_what_lacks_is_fetched(autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.3: blocks that are on the disk are not fetched again for those around them that are not."""
    server = Server(DATA)
    async with bench(server, directory=str(tmp_path), pool=4 * BLOCK) as made:
        handle = await made.open(SIZE)
        for block in (3, 30, 7, 20):
            await handle.read(block * BLOCK + 5, 10)
        assert await read_all(handle) == DATA
        handle.close()
    assert server.sent == SIZE
