"""artifactfs.content: what becomes of contents when the keys turn out to be another account's (semantics.md 6.3)."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.content.reader import OpenFile
from tests.content_harness import BLOCK, Server, bench, noise

SIZE = 8 * BLOCK
MINE, THEIRS = noise(SIZE), noise(SIZE, seed=1)
A, B = b"A" * 16, b"B" * 16


async def read_all(handle: OpenFile) -> bytes:
    return b"".join([bytes(await handle.read(at, 300)) for at in range(0, SIZE, 300)])


async def test_nothing_cached_is_served(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Neither memory nor the disk: not to an open file, not to a new one; the first account's stays its own."""
    server = Server(MINE)
    async with bench(server, directory=str(tmp_path / "cache")) as made:
        handle = await made.open(SIZE)
        assert await read_all(handle) == MINE
        handle.close()
        await made.settle()
        asked = len(server.asked)
        handle = await made.open(SIZE)
        assert await read_all(handle) == MINE
        assert len(server.asked) == asked
        server.data = THEIRS
        made.files.switch_account("site\0another")
        assert await read_all(handle) == THEIRS
        handle.close()
        again = await made.open(SIZE)
        asked = len(server.asked)
        assert await read_all(again) == THEIRS
        assert len(server.asked) == asked
        again.close()
        made.files.switch_account("site\0account")
        first = await made.open(SIZE)
        assert await read_all(first) == MINE
        assert len(server.asked) == asked
        first.close()


@pytest.mark.parametrize("granted", [True, False])
async def test_a_waiting_caller_goes_on_waiting(granted: bool, autojump_clock: MockClock) -> None:
    """What is under way is of the account before: it ends, and what the new keys bring is what the reader gets."""
    server = Server(MINE, granted=granted, pause_s=1.0)
    found: list[bytes] = []
    async with bench(server) as made:
        handle = await made.open(SIZE)

        async def read() -> None:
            found.append(bytes(await handle.read(0, SIZE)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(2.5)
            assert server.asked
            server.data = THEIRS
            made.files.switch_account("site\0another")
        assert found == [THEIRS]
        assert made.shop.active_downloads == 0
        assert made.shop.active_streams == 0
        handle.close()


async def test_a_fill_that_has_not_begun(autojump_clock: MockClock) -> None:
    """It is ended like any; the reader asks again."""
    server = Server(THEIRS)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        server.before_answer = lambda number: made.files.switch_account("site\0another") if number == 0 else None
        assert await read_all(handle) == THEIRS
        handle.close()


async def test_it_must_be_the_same_version(autojump_clock: MockClock) -> None:
    """4.1: one open file is one version, whatever keys ask: another validator with the new keys is ESTALE."""
    server = Server(MINE, validator=lambda: A)
    async with bench(server) as made:
        handle = await made.open(SIZE)
        assert await handle.read(0, 10) == MINE[:10]
        made.files.switch_account("site\0another")
        assert await handle.read(0, 10) == MINE[:10]
        server.data, server.validator = THEIRS, lambda: B
        made.files.switch_account("site\0third")
        with pytest.raises(errors.Superseded):
            await handle.read(0, 10)
        # One that is gone stays gone.
        made.files.switch_account("site\0account")
        with pytest.raises(errors.Superseded):
            await handle.read(0, 10)
        handle.close()


async def test_a_size_that_was_learned_stays(autojump_clock: MockClock) -> None:
    """An open file has the size that it was opened with."""
    server = Server(MINE)
    async with bench(server) as made:
        handle = await made.open(None)
        assert handle.size == SIZE
        made.files.switch_account("site\0another")
        await wait_all_tasks_blocked()
        assert handle.size == SIZE
        assert await read_all(handle) == MINE
        handle.close()
