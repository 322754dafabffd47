"""artifactfs.content: a file that changes between any two answers (semantics.md 2.4, 3.5, 4.1, 5.1)."""

import logging
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, DEADLINE_S, Server, bench, noise

OTHER = noise(200 * BLOCK, seed=3)
WHOLE = noise(200 * BLOCK)


def version(size: int | None, *, is_listed: bool = True) -> ContentVersion:
    return ContentVersion(ArtifactRef("10", "p/log.txt"), size, settled=False, lineage=7, is_listed=is_listed)


def growing(server: Server, by: int = 100) -> Callable[[int], None]:
    """Append to the file before each answer."""

    def append(_number: int) -> None:
        server.data = WHOLE[: len(server.data) + by]

    return append


def version_of(server: Server) -> bytes:
    return server.data[:8] + b"%8d" % len(server.data)


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("says_total", [True, False], ids=["total", "no total"])
@pytest.mark.parametrize("validators", [True, False], ids=["validators", "none"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_it_grows_before_each_answer(
    granted: bool, says_total: bool, validators: bool, is_known: bool, autojump_clock: MockClock
) -> None:
    """3.5, 4.1: what is there of a file that is appended to all the time can be read, with few requests."""
    size = 60 * BLOCK
    server = Server(WHOLE[:size], granted=granted, told=says_total)
    if validators:
        server.validator = lambda: version_of(server)
    async with bench(server) as made:
        if not is_known:
            server.before_answer = growing(server)
        handle = await made.files.open(version(size))
        server.before_answer = growing(server)
        for start, end in (0, 10 * BLOCK), (30 * BLOCK, 40 * BLOCK), (10 * BLOCK, 12 * BLOCK):
            assert await handle.read(start, end - start) == WHOLE[start:end]
        assert len(server.asked) <= (40 if says_total else 150)
        assert not made.shop.validators_unreliable
        handle.close()


@pytest.mark.parametrize("says_total", [True, False], ids=["total", "no total"])
@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("validators", [True, False], ids=["validators", "none"])
async def test_several_readers_of_a_file_that_grows(
    granted: bool, says_total: bool, validators: bool, autojump_clock: MockClock
) -> None:
    """3.5, 4.1: growth that one answer shows does not fail the reads that wait for others."""
    size = 60 * BLOCK
    server = Server(WHOLE[:size], granted=granted, told=says_total, pause_s=0.05)
    if validators:
        server.validator = lambda: version_of(server)
    async with bench(server) as made:
        handle = await made.files.open(version(size))
        server.before_answer = growing(server)

        async def read(start: int) -> None:
            await trio.sleep(start / BLOCK / 100)
            for at in range(start, start + 10 * BLOCK, BLOCK):
                assert await handle.read(at, BLOCK) == WHOLE[at : at + BLOCK]

        async with trio.open_nursery() as nursery:
            for start in range(0, size, 10 * BLOCK):
                nursery.start_soon(read, start)
        handle.close()


@pytest.mark.parametrize("validators", [True, False], ids=["validators", "none"])
async def test_it_is_replaced_after_it_grew(validators: bool, autojump_clock: MockClock) -> None:
    """2.4, 4.1: what an answer brought of a larger file counts only if that is still the same file afterwards."""
    server = Server(WHOLE[: 20 * BLOCK])
    if validators:
        server.validator = lambda: version_of(server)
    async with bench(server) as made:
        for replaced_at in range(2, 9):
            server.data = WHOLE[: 20 * BLOCK]
            path = f"p/{replaced_at}"
            listed = ContentVersion(ArtifactRef("10", path), 20 * BLOCK, settled=False, lineage=replaced_at)
            handle = await made.files.open(listed)
            assert await handle.read(0, 100) == WHOLE[:100]
            begun = len(server.asked)

            def change(number: int, begun: int = begun, replaced_at: int = replaced_at) -> None:
                data = WHOLE if number - begun < replaced_at else OTHER
                server.data = data[: len(server.data) + 100]

            async def read(handle: OpenFile = handle) -> None:
                for start in range(2 * BLOCK, 19 * BLOCK, 3 * BLOCK):
                    assert await handle.read(start, 2 * BLOCK) == WHOLE[start : start + 2 * BLOCK]

            server.before_answer = change
            with pytest.raises(errors.Superseded):
                await read()
            server.before_answer = lambda _number: None
            handle.close()


async def test_a_proof_that_takes_long(autojump_clock: MockClock) -> None:
    """5.1: a read goes on while bytes come that show whether the file has only grown, and no longer."""
    server = Server(WHOLE[: 60 * BLOCK], granted=False)
    async with bench(server) as made:
        handle = await made.files.open(version(60 * BLOCK))
        assert await handle.read(0, 40 * BLOCK) == WHOLE[: 40 * BLOCK]
        await trio.sleep(100)
        made.shop.pool.clear()
        server.data, server.pause_s = WHOLE[: 70 * BLOCK], 1.0
        assert await handle.read(50 * BLOCK, 100) == WHOLE[50 * BLOCK : 50 * BLOCK + 100]
        await trio.sleep(100)
        made.shop.pool.clear()
        server.data = WHOLE[: 80 * BLOCK]
        server.before_answer = lambda number: setattr(server, "stall", number > asked)
        asked, began = len(server.asked), trio.current_time()
        with pytest.raises(errors.TimedOut):
            await handle.read(60 * BLOCK, 100)
        assert trio.current_time() - began <= 200 + DEADLINE_S
        handle.close()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_its_validators_change_without_a_total(granted: bool, listed: bool, autojump_clock: MockClock) -> None:
    """3.5, 4.1: validators that differ since a file grows are no noise: those of other files still count."""
    server = Server(WHOLE[: 20 * BLOCK], granted=granted, told=False)
    server.validator = lambda: version_of(server)
    async with bench(server, pool=3 * BLOCK) as made:
        handle = await made.files.open(version(20 * BLOCK if listed else None, is_listed=listed), stream=True)
        assert await handle.read(0, 5 * BLOCK) == WHOLE[: 5 * BLOCK]
        await trio.sleep(60)
        server.before_answer = growing(server, BLOCK)
        assert await handle.read(12 * BLOCK, BLOCK) == WHOLE[12 * BLOCK : 13 * BLOCK]
        assert not made.shop.validators_unreliable
        handle.close()


async def test_it_is_rewritten_before_each_whole_body(autojump_clock: MockClock) -> None:
    """4.1: a whole body is not taken for the same file since the one before was another one, too."""
    size, seeds = 20 * BLOCK, iter(range(100))
    server = Server(WHOLE[:size], granted=False, told=False)
    server.validator = lambda: version_of(server)
    async with bench(server, pool=3 * BLOCK) as made:
        handle = await made.files.open(ContentVersion(ArtifactRef("10", "p/f"), size), stream=True)
        assert await handle.read(0, 5 * BLOCK) == WHOLE[: 5 * BLOCK]
        await trio.sleep(60)
        made.shop.pool.clear()
        server.before_answer = lambda _number: setattr(server, "data", noise(size, seed=next(seeds) + 1))
        with pytest.raises(errors.Superseded):
            await handle.read(12 * BLOCK, BLOCK)
        assert not made.shop.validators_unreliable
        handle.close()


async def test_a_file_without_a_size_grows_while_it_is_read_first(autojump_clock: MockClock) -> None:
    """2.2, 3.5, 4.1: another validator may be that of the same file, which grew, also before its size is known."""
    server = Server(WHOLE[: 20 * BLOCK], told=False)
    server.validator = lambda: version_of(server)
    async with bench(server) as made:
        handle = await made.files.open(version(None, is_listed=False), stream=True)
        assert handle.size is None
        assert await handle.read(0, 5 * BLOCK) == WHOLE[: 5 * BLOCK]
        server.data = WHOLE[: 30 * BLOCK]
        assert await made.read_whole(handle) == server.data
        handle.close()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
async def test_it_is_replaced_within_a_proof(listed: bool, autojump_clock: MockClock) -> None:
    """2.4: a proof of several answers is of one file: none of the news of another one is shown."""
    server = Server(WHOLE[:1000], told=False)
    server.validator = lambda: version_of(server)
    async with bench(server) as made:
        handle = await made.files.open(version(1000))
        assert await made.read_whole(handle) == WHOLE[:1000]
        server.data, begun = WHOLE[:1500], len(server.asked)

        def replace(number: int) -> None:
            if number > begun:
                server.data = OTHER[: 9 * BLOCK]

        server.before_answer = replace
        await trio.sleep(100)
        with pytest.raises(errors.Superseded):
            await handle.grow(version(9 * BLOCK if listed else 1000, is_listed=listed), 0.0)
        handle.close()


@pytest.mark.parametrize("placed", [True, False], ids=["placed", "as it comes"])
async def test_a_size_that_is_learned_while_a_body_comes(
    placed: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """2.2, 4.1: where another answer tells the size, a body that began before brings nothing behind that."""
    server, found = Server(WHOLE[: 20 * BLOCK], told=False, placed=placed), list[bytes]()
    async with bench(server) as made:
        handle = await made.files.open(version(None, is_listed=False), stream=True)
        assert handle.size is None

        async def read() -> None:
            found.append(bytes(await handle.read(2 * BLOCK, 8 * BLOCK)))

        async with trio.open_nursery() as nursery:
            server.pause_s = 1.0
            nursery.start_soon(read)
            await trio.sleep(3.5)
            server.data, server.told, server.pause_s = WHOLE[: 5 * BLOCK], True, 0.0
            assert await handle.read(BLOCK, 100) == WHOLE[BLOCK : BLOCK + 100]
            assert not found
        assert found == [WHOLE[2 * BLOCK : 5 * BLOCK]]  # so the size is known
        await trio.sleep(20)
        cached = await made.files.cached_bytes(version(5 * BLOCK, is_listed=False))
        assert cached.memory_bytes <= 5 * BLOCK
        # Bytes behind the size have no block.
        assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
        handle.close()
