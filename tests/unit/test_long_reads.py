"""artifactfs.content: what is requested ahead of a program that reads a large file on from its start."""

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.content_harness import BLOCK, GLANCE, TUNING, Server, bench, noise


async def test_the_window_of_a_long_read_is_never_nearly_empty(autojump_clock: MockClock) -> None:
    """4.5: at least three quarters of it are requested at any time, in few requests: their latency is no gap."""
    window = TUNING.window_bytes
    ahead, server = await ahead_of_a_long_read(96 * BLOCK)
    assert min(ahead[window // GLANCE :]) >= window * 3 // 4 - BLOCK
    assert max(ahead) < window + BLOCK
    assert len(server.asked) < 18


@pytest.mark.parametrize("blocks", [2, 3, 6])
async def test_a_long_read_where_memory_is_short(blocks: int, autojump_clock: MockClock) -> None:
    """4.3: no more is fetched ahead than memory holds, so that nothing comes twice, and yet something is."""
    ahead, server = await ahead_of_a_long_read(blocks * BLOCK)
    assert min(ahead[4 * BLOCK // GLANCE :]) >= BLOCK // 2
    assert server.sent == max(to for _, to in server.asked)


async def ahead_of_a_long_read(pool: int) -> tuple[list[int], Server]:
    """Read a large file from its start; return after each read how far behind it was requested, and the server."""
    data = noise(200 * BLOCK)
    server = Server(data)
    async with bench(server, pool=pool, budget=80 * BLOCK) as made:
        handle = await made.open(len(data))
        ahead = []
        for start in range(0, len(data) - 64 * BLOCK, GLANCE):
            assert await handle.read(start, GLANCE) == data[start : start + GLANCE]
            await wait_all_tasks_blocked()
            ahead.append(max(to for _, to in server.asked) - start - GLANCE)
        handle.close()
    return ahead, server
