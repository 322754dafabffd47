"""What each pattern of reading asks a server for: requests, bytes and seconds, under what the kernel makes of it.

All sizes are 1/512 of those in a mount: a file of 400 KiB stands for one of 200 MiB, 1 KiB for a block of 512 KiB.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from artifactfs.content.reader import OpenFile
from tests.content_harness import BLOCK, GLANCE, Server, bench, noise

# In a mount: 200 MiB, 1 MiB, 128 KiB, 4 KiB, and how much the kernel asks for at a time.
SIZE = 400 * BLOCK
MIB = 2 * BLOCK
PAGE = 8
AT_A_TIME = GLANCE
DATA = noise(SIZE)
LATENCY_S = 0.02
# As in a mount.
POOL, BUDGET = 96 * BLOCK, 80 * BLOCK


class Kernel:
    """The kernel's page cache in front of an open file, with its read-ahead of 128 KiB (mm/readahead.c, Linux 6.18)."""

    def __init__(self, handle: OpenFile) -> None:
        self._handle = handle
        self._pages: set[int] = set()
        self.asked = 0

    async def read(self, offset: int, count: int) -> None:
        """pread(2): what is missing, in pieces; and one piece more, unless it is a short read."""
        end = min(offset + count, SIZE)
        if count > AT_A_TIME:
            end = min(end + AT_A_TIME, SIZE)
        for start in range(offset, end, AT_A_TIME):
            await self._ask(start, min(start + AT_A_TIME, end))

    async def fault(self, offset: int, count: int) -> None:
        """Touch a mapping: 128 KiB around each page that is missing."""
        for page in range(offset // PAGE, -(-(offset + count) // PAGE)):
            if page not in self._pages:
                start = max(0, page * PAGE - AT_A_TIME // 2)
                await self._ask(start, min(start + AT_A_TIME, SIZE))

    async def _ask(self, start: int, end: int) -> None:
        missing = [page for page in range(start // PAGE, -(-end // PAGE)) if page not in self._pages]
        if missing:
            start, end = missing[0] * PAGE, min((missing[-1] + 1) * PAGE, SIZE)
            assert await self._handle.read(start, end - start) == DATA[start:end]
            self._pages.update(missing)
            self.asked += end - start


Pattern = Callable[[Kernel], Awaitable[None]]


def random_places() -> list[int]:
    chooser = random.Random(1)
    return [chooser.randrange(SIZE - 4) for _ in range(64)]


async def mapped_at_random(kernel: Kernel) -> None:
    for place in random_places():
        await kernel.fault(place, 4)


async def read_at_random(kernel: Kernel) -> None:
    for place in random_places():
        await kernel.read(place, 4)


async def little_of_each(kernel: Kernel) -> None:
    for start in range(0, SIZE, MIB):
        await kernel.read(start, MIB // 16)


async def a_quarter(kernel: Kernel) -> None:
    for start in range(0, SIZE, 4 * MIB):
        await kernel.read(start, MIB)


async def backwards(kernel: Kernel) -> None:
    for start in range(SIZE - MIB, -1, -MIB):
        await kernel.read(start, MIB)


async def backwards_in_small_steps(kernel: Kernel) -> None:
    for start in range(SIZE - MIB // 16, -1, -MIB // 16):
        await kernel.read(start, MIB // 16)


async def forwards(kernel: Kernel) -> None:
    for start in range(0, SIZE, MIB):
        await kernel.read(start, MIB)


async def forwards_by_a_mapping(kernel: Kernel) -> None:
    for start in range(0, SIZE, PAGE):
        await kernel.fault(start, PAGE)


async def one_tensor(kernel: Kernel) -> None:
    await kernel.fault(0, 4)
    start = SIZE // 2 + 3 * PAGE
    await kernel.fault(start, 4 * MIB)


async def one_tensor_from_its_end(kernel: Kernel) -> None:
    await kernel.fault(0, 4)
    for start in range(SIZE // 2 + 4 * MIB - MIB // 16, SIZE // 2 - 1, -MIB // 16):
        await kernel.read(start, MIB // 16)


async def places_of_tensors(kernel: Kernel) -> None:
    for start in range(0, SIZE, 4 * MIB + PAGE):
        await kernel.read(start, 2 * PAGE)


async def two_places_in_turn(kernel: Kernel) -> None:
    for step in range(0, 16 * MIB, MIB // 4):
        await kernel.read(20 * MIB + step, MIB // 4)
        await kernel.read(120 * MIB + step, MIB // 4)


# The most that each may ask for: requests, bytes as times of what the kernel asks for, seconds.
LIMITS: dict[Pattern, tuple[int, float, float]] = {
    mapped_at_random: (64, 1.1, 1.4),
    # A few KiB each; 128 KiB are fetched.
    read_at_random: (64, 32.0, 1.4),
    little_of_each: (200, 1.1, 1.0),
    a_quarter: (60, 1.02, 0.4),
    backwards: (40, 1.0, 0.6),
    # The first 5 MiB a little at a time: they may be a tensor.
    backwards_in_small_steps: (80, 1.0, 1.4),
    forwards: (30, 1.0, 0.25),
    forwards_by_a_mapping: (30, 1.0, 0.25),
    one_tensor: (20, 1.08, 0.4),
    one_tensor_from_its_end: (40, 1.1, 0.8),
    places_of_tensors: (50, 4.0, 0.4),
    two_places_in_turn: (80, 1.1, 1.6),
}


@pytest.mark.parametrize("pattern", LIMITS, ids=lambda pattern: pattern.__name__)
async def test_what_a_pattern_costs(pattern: Pattern, autojump_clock: MockClock) -> None:
    """4.3, 4.5: each pattern gets what it asks for and little more, each byte once, several requests at once."""
    most_requests, most_times, most_s = LIMITS[pattern]
    server = Server(DATA, chunk=SIZE, pause_s=LATENCY_S)
    async with bench(server, pool=POOL, budget=BUDGET) as made:
        handle = await made.open(SIZE)
        kernel = Kernel(handle)
        began = trio.current_time()
        await pattern(kernel)
        took_s = trio.current_time() - began
        await trio.sleep(1)
        handle.close()
    assert len(server.asked) <= most_requests
    assert server.sent <= most_times * kernel.asked
    assert took_s <= most_s


@pytest.mark.parametrize("pattern", LIMITS, ids=lambda pattern: pattern.__name__)
async def test_without_ranges_a_body_comes_once(pattern: Pattern, autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.2: whatever the pattern, a server that ignores ranges is asked once, if the cache has room for the file."""
    server = Server(DATA, granted=False, chunk=BLOCK, pause_s=0.001)
    async with bench(server, directory=str(tmp_path), pool=POOL, budget=BUDGET) as made:
        handle = await made.open(SIZE)
        await pattern(Kernel(handle))
        handle.close()
    assert len(server.asked) == 1
    assert server.sent <= SIZE


@pytest.mark.parametrize("pattern", LIMITS, ids=lambda pattern: pattern.__name__)
async def test_what_a_pattern_fetched_is_kept(pattern: Pattern, autojump_clock: MockClock, tmp_path: Path) -> None:
    """4.3: parts of blocks are in the cache on disk, too: the next mount asks for no byte that this one asked for."""
    asked: list[tuple[int, int]] = []
    for again in (pattern, pattern, forwards):
        server = Server(DATA, validator=lambda: b"A" * 16)
        async with bench(server, directory=str(tmp_path), pool=POOL, budget=BUDGET) as made:
            handle = await made.open(SIZE)
            await again(Kernel(handle))
            await trio.sleep(1)
            handle.close()
        asked += server.asked
    assert sum(end - start for start, end in asked) == SIZE
    assert all(end <= start for (_, end), (start, _) in zip(sorted(asked), sorted(asked)[1:], strict=False))


async def test_a_small_file_is_one_request(autojump_clock: MockClock) -> None:
    """4.5: a file of up to 1 MiB that is read in large pieces from its start comes whole."""
    server = Server(DATA[:MIB])
    async with bench(server) as made:
        handle = await made.open(MIB)
        for start in range(0, MIB, AT_A_TIME):
            assert await handle.read(start, AT_A_TIME) == DATA[start : start + AT_A_TIME]
        handle.close()
    assert server.asked == [(0, MIB)]


async def test_a_pattern_that_ends_is_forgotten(autojump_clock: MockClock) -> None:
    """4.5: after a stride that repeated, reads at other places cost what they ask for, from the second on."""
    server = Server(DATA)
    async with bench(server, pool=POOL, budget=BUDGET) as made:
        handle = await made.open(SIZE)
        kernel = Kernel(handle)
        for start in range(0, 20 * MIB, 4 * MIB):
            await kernel.read(start, MIB)
        await kernel.fault(150 * MIB + PAGE, 4)
        await trio.sleep(1)
        server.asked.clear()
        for start in (101 * MIB, 180 * MIB, 120 * MIB):
            await kernel.fault(start + PAGE, 4)
        await trio.sleep(1)
        handle.close()
    assert sum(end - start for start, end in server.asked) == 3 * AT_A_TIME
