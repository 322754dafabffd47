"""artifactfs.content.full_body: what a body has passed is there, whatever memory evicts (docs/semantics.md 4.2)."""

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from tests.content_harness import BLOCK, DEADLINE_S, Server, bench, noise

DATA = noise(6 * BLOCK)


async def test_the_block_that_a_body_has_come_to(autojump_clock: MockClock) -> None:
    """4.2, 4.3: a read that ends within a block is done, the body goes on: nothing of the block is evicted meanwhile.

    Without its first bytes, the block would never be whole, and all of the body would have to come again.
    """
    server = Server(DATA, granted=False, ranges=False, pause_s=1.0)
    async with bench(server) as made:
        handle = await made.open(len(DATA))
        end = 2 * BLOCK + 500
        assert await handle.read(0, end) == DATA[:end]
        made.shop.pool.clear()
        assert await handle.read(end, 2 * BLOCK) == DATA[end : end + 2 * BLOCK]
        assert await handle.read(2 * BLOCK, BLOCK) == DATA[2 * BLOCK : 3 * BLOCK]
        handle.close()
    assert len(server.asked) == 1


async def test_the_block_in_which_a_body_ended(autojump_clock: MockClock) -> None:
    """4.4: a body that no reader comes back to ends, and memory may evict the part of a block that came last."""
    server = Server(DATA, granted=False, ranges=False)
    async with bench(server) as made:
        handle = await made.open(len(DATA))
        await handle.read(0, 2 * BLOCK)
        await trio.sleep(60)
        assert server.open_bodies == 0
        assert handle.try_read(4 * BLOCK, 100) == DATA[4 * BLOCK : 4 * BLOCK + 100]
        assert handle.try_read(4 * BLOCK, BLOCK) is None
        made.shop.pool.clear()
        assert handle.try_read(4 * BLOCK, 100) is None
        handle.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_body_whose_end_and_length_nothing_tells(stream: bool, autojump_clock: MockClock) -> None:
    """4.1: what came before a connection ended is read; that this is all of the file, nothing shows: EIO."""
    server = Server(DATA, granted=False, told=False, framed=False, ends=[3000] * 50)
    async with bench(server) as made:
        if not stream:
            with pytest.raises(errors.ShortBody):
                await made.open(None, stream=False)
            return
        handle = await made.open(None)
        assert bytes(await handle.read(0, 100)) == DATA[:100]
        with pytest.raises(errors.ShortBody):
            await made.read_whole(handle)
        assert handle.size is None
        handle.close()


async def test_two_readers_of_a_streamed_body(autojump_clock: MockClock) -> None:
    """4.2: steps back of one reader start the body again, and are no failure of the answers to another reader."""
    data = noise(60 * BLOCK)
    server = Server(data, granted=False, pause_s=0.01)
    async with bench(server, pool=4 * BLOCK) as made:

        async def read(at: int, pieces: int) -> None:
            handle = await made.open(len(data))
            for start in range(at, at + 300 * pieces, 300):
                assert await handle.read(start, 300) == data[start : start + 300]
                await trio.sleep(0.2)
            handle.close()

        async with trio.open_nursery() as readers:
            readers.start_soon(read, 0, 60)
            readers.start_soon(read, 30 * BLOCK, 30)
        assert made.shop.stats.restarted > 4


@pytest.mark.parametrize("cut", [None, 20 * BLOCK], ids=["comes", "breaks off"])
async def test_a_long_step_back_in_a_streamed_body(cut: int | None, autojump_clock: MockClock) -> None:
    """4.2, 5.1: a body on its way to a read is progress, though its bytes came before, until it gets no nearer."""
    data = noise(90 * BLOCK)
    server = Server(data, granted=False, chunk=BLOCK, pause_s=1.0)
    async with bench(server, pool=8 * BLOCK) as made:
        handle = await made.open(len(data))
        assert await made.read_whole(handle, BLOCK) == data
        server.cuts, began = [cut] * 10, trio.current_time()
        if cut is None:
            assert await handle.read(70 * BLOCK, 300) == data[70 * BLOCK :][:300]
            assert trio.current_time() - began < 75
        else:
            with pytest.raises(errors.TimedOut):
                await handle.read(70 * BLOCK, 300)
            assert trio.current_time() - began <= 2 * DEADLINE_S
        handle.close()
