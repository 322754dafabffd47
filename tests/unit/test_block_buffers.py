"""artifactfs.content.block_buffers: a buffer is used again, and never while a view of it is left."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from artifactfs.content.block_buffers import BlockBuffers
from tests.content_harness import BLOCK, Server, bench, noise

SIZE = 4096


def test_a_buffer_is_used_again() -> None:
    """4.1: with its last view gone, a buffer is the next one that is taken."""
    buffers = BlockBuffers(SIZE, 10 * SIZE)
    view = buffers.take(SIZE)
    memory = view.obj
    del view
    assert buffers.take(SIZE).obj is memory


def test_a_part_of_a_view_keeps_its_buffer() -> None:
    """4.1: the bytes of a reader stay, whatever is left of what it was given."""
    buffers = BlockBuffers(SIZE, 10 * SIZE)
    view = buffers.take(SIZE)
    view[:4] = b"kept"
    part = memoryview(view[1:])[1:3].toreadonly()
    del view
    for _ in range(20):
        buffers.take(SIZE)[:] = bytes(SIZE)
    assert bytes(part) == b"pt"


def test_memory_is_bounded() -> None:
    """4.4: no more buffers are kept than there is room for; others go back to the system with their last view."""
    buffers = BlockBuffers(SIZE, 3 * SIZE)
    first = [buffers.take(SIZE) for _ in range(20)]
    known = {id(view.obj) for view in first}
    assert len(known) == 20
    kept = {id(view.obj) for view in first[:3]}
    first.clear()
    again = [buffers.take(SIZE) for _ in range(3)]
    assert {id(view.obj) for view in again} == kept


def test_other_sizes() -> None:
    """4.4: what is no whole block has memory of its own size, which counts as its own."""
    buffers = BlockBuffers(SIZE, 10 * SIZE)
    assert [len(buffers.take(size)) for size in (0, 1, SIZE - 1, SIZE, SIZE + 1)] == [0, 1, SIZE - 1, SIZE, SIZE + 1]


def test_no_memory() -> None:
    """5.5: a lack of memory is what it is everywhere else, and no failure of the disk."""
    with pytest.raises(MemoryError):
        BlockBuffers(sys.maxsize // 2, sys.maxsize).take(sys.maxsize // 2)


@given(st.lists(st.one_of(st.none(), st.integers(0, 1000)), max_size=60), st.integers(0, 6))
def test_views_never_change(steps: list[int | None], kept: int) -> None:
    """4.1: whatever is taken and dropped, in whatever order, each view has its own bytes."""
    buffers = BlockBuffers(SIZE, kept * SIZE)
    held: list[tuple[int, memoryview]] = []
    for number, step in enumerate(steps):
        if step is None:
            view = buffers.take(SIZE)
            view[:] = number.to_bytes(2, "big") * (SIZE // 2)
            held.append((number, view[2 * number : 2 * number + 2]))
        elif held:
            held.pop(step % len(held))
        assert all(bytes(view) == number.to_bytes(2, "big") for number, view in held)


def test_threads() -> None:
    """4.1: no two threads get the same buffer."""
    buffers = BlockBuffers(SIZE, 8 * SIZE)

    def use(name: int) -> bool:
        right = True
        held: list[tuple[int, memoryview]] = []
        for count in range(500):
            mark = name << 16 | count
            view = buffers.take(SIZE)
            view[:4] = mark.to_bytes(4, "big")
            held.append((mark, view))
            right &= all(bytes(each[:4]) == mark.to_bytes(4, "big") for mark, each in held)
            if len(held) == 3:
                held.pop(count % 3)
        return right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))


async def test_readers_keep_their_bytes(autojump_clock: MockClock) -> None:
    """4.1: what a reader was given stays, long after its block was evicted and the next ones were received."""
    data = noise(40 * BLOCK, seed=1)
    for placed in (True, False):
        async with bench(Server(data, placed=placed), pool=4 * BLOCK, budget=4 * BLOCK) as made:
            handle = await made.open(len(data), run_stamp=b"R" * 16)
            held = [(at, await handle.read(at, 300)) for at in (*range(0, len(data), 300), *range(0, len(data), BLOCK))]
            assert all(bytes(view) == data[at : at + 300] for at, view in held)
            handle.close()
