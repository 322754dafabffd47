"""artifactfs.content: a version grows, or not, though the caches have lost what its readers were given (2.4, 4.4)."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.known_bytes import KnownBytes
from artifactfs.content.memory_cache import MemoryBlock
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, GLANCE, Bench, Server, bench, noise

OTHER = noise(100 * BLOCK, seed=3)
WHOLE = noise(100 * BLOCK)
# Less than a digest is of, and than two; a block and a part; several.
SIZES = [1, GLANCE + 44, BLOCK + 100, 8 * BLOCK]


def version(size: int, path: str = "p/log.txt") -> ContentVersion:
    return ContentVersion(ArtifactRef("10", path), size, settled=False, lineage=7 if path == "p/log.txt" else 8)


async def opened(made: Bench, size: int) -> OpenFile:
    return await made.files.open(version(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_an_open_file_reads_on(size: int, granted: bool, autojump_clock: MockClock) -> None:
    """2.4, 4.4: an eviction costs requests, never a read: an open file that was appended to goes on."""
    server = Server(WHOLE[:size], granted=granted, validator=lambda: b"%16d" % len(server.data))
    async with bench(server) as made:
        handle = await opened(made, size)
        assert await made.read_whole(handle) == WHOLE[:size]
        for total in (size + 1, size + 5 * BLOCK):
            made.shop.pool.clear()
            server.data = WHOLE[:total]
            await handle.grow(version(total))
            assert await made.read_whole(handle) == WHOLE[:total]
        handle.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("differs_at", [0, -1], ids=["start", "end"])
@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
async def test_another_file_that_is_larger(
    size: int, differs_at: int, granted: bool, is_closed: bool, autojump_clock: MockClock
) -> None:
    """2.4: a larger file that differs from what readers were given is another version, also at the next opening."""
    server = Server(WHOLE[:size], granted=granted)
    async with bench(server) as made:
        handle = await opened(made, size)
        assert await made.read_whole(handle) == WHOLE[:size]
        if is_closed:
            handle.close()
        made.shop.pool.clear()
        changed = bytearray(WHOLE[: size + 10])
        changed[0 if differs_at == 0 else size - 1] ^= 1
        server.data = bytes(changed)
        with pytest.raises(errors.Superseded):
            await opened(made, size + 10)
        handle.close()


async def test_it_is_opened_again(autojump_clock: MockClock) -> None:
    """2.4: one that was appended to since it was closed goes on, by as many answers as it takes, and once only."""
    server = Server(WHOLE[: 8 * BLOCK])
    async with bench(server) as made:
        handle = await opened(made, 8 * BLOCK)
        assert await made.read_whole(handle, 8 * BLOCK) == WHOLE[: 8 * BLOCK]
        handle.close()
        made.shop.pool.clear()
        server.data, server.cuts = WHOLE[: 9 * BLOCK], [100, 300]
        handle = await opened(made, 9 * BLOCK)
        assert await made.read_whole(handle) == WHOLE[: 9 * BLOCK]
        handle.close()
        asked = len(server.asked)
        assert server.cuts == []
        handle = await opened(made, 9 * BLOCK)
        assert len(server.asked) == asked
        handle.close()


@pytest.mark.parametrize("validators", [True, False], ids=["validators", "none"])
@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "appended to"])
async def test_under_other_keys(validators: bool, replaced: bool, autojump_clock: MockClock) -> None:
    """2.4, 6.3: a reader that has a part of a file when the keys change gets nothing of a larger one in its place."""
    size, half = 20 * BLOCK, 10 * BLOCK
    server = Server(WHOLE[:size])
    if validators:
        server.validator = lambda: server.data[:8] + b"%8d" % len(server.data)
    async with bench(server) as made:
        handle = await opened(made, size)
        assert await handle.read(0, half) == WHOLE[:half]
        made.files.switch_account("site\0another")
        server.data = (OTHER if replaced else WHOLE)[: 30 * BLOCK]
        if replaced:
            with pytest.raises(errors.Superseded):
                await handle.read(half, BLOCK)
        else:
            assert await made.read_whole(handle) == server.data
        handle.close()


@pytest.mark.parametrize("disk", [True, False], ids=["disk", "memory"])
@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "appended to"])
async def test_closed_while_the_keys_changed(
    replaced: bool, disk: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """2.4, 6.3: a program that reads on in a file which it closed gets nothing of a larger one in its place."""
    server = Server(WHOLE[: 8 * BLOCK], validator=lambda: server.data[:8] + b"%8d" % len(server.data))
    async with bench(server, directory=str(tmp_path / "cache") if disk else None) as made:
        handle = await opened(made, 8 * BLOCK)
        assert await made.read_whole(handle) == WHOLE[: 8 * BLOCK]
        handle.close()
        made.files.switch_account("site\0another")
        server.data, sent = (OTHER if replaced else WHOLE)[: 9 * BLOCK], server.sent
        if replaced:
            with pytest.raises(errors.Superseded):
                await opened(made, 9 * BLOCK)
        else:
            handle = await opened(made, 9 * BLOCK)
            assert await made.read_whole(handle) == server.data
            # Nothing of the account before was served (6.3).
            assert server.sent - sent >= 9 * BLOCK
            handle.close()


async def test_the_end_that_came_counts(autojump_clock: MockClock) -> None:
    """2.4: where the first bytes are cached and the last ones are lost, these are compared, too."""
    server = Server(WHOLE[: 8 * BLOCK])
    async with bench(server) as made:
        handle = await opened(made, 8 * BLOCK)
        assert await made.read_whole(handle) == WHOLE[: 8 * BLOCK]
        made.shop.pool.clear()
        assert await handle.read(0, GLANCE) == WHOLE[:GLANCE]
        server.data = WHOLE[: 3 * BLOCK] + OTHER[3 * BLOCK : 9 * BLOCK]
        with pytest.raises(errors.Superseded):
            await handle.grow(version(9 * BLOCK))
        handle.close()


@pytest.mark.parametrize("cache", [None, 20 * BLOCK, 1 << 30], ids=["memory", "a small disk", "a disk"])
async def test_another_file_is_read_between(cache: int | None, tmp_path: Path, autojump_clock: MockClock) -> None:
    """4.4, 3.5: a log that is followed goes on whatever the caches evicted for other files."""
    server = Server(WHOLE[:5000])
    directory = str(tmp_path / "cache") if cache else None
    async with bench(server, pool=8 * BLOCK, directory=directory, cache=cache or 0) as made:
        handle = await opened(made, 5000)
        assert await made.read_whole(handle) == WHOLE[:5000]
        server.data = OTHER[: 60 * BLOCK]
        large = await made.files.open(version(60 * BLOCK, "p/large"))
        assert await made.read_whole(large) == server.data
        large.close()
        await made.keeper.flush()
        server.data = WHOLE[:6000]
        await handle.grow(version(6000))
        assert await handle.read(5000, 2000) == WHOLE[5000:6000]
        handle.close()


def test_what_is_known() -> None:
    """2.4: the first and the last bytes that came, whatever their order, and as many of them as there are."""
    known = KnownBytes()
    block = MemoryBlock(bytearray(WHOLE[:BLOCK]), 0)
    known.note(0, block, 100)
    assert (known.first, known.last) == (None, None)
    for start, end, first, last in [
        (300, 320, (1300, 1320), (1300, 1320)),
        (320, 900, (1300, 1400), (1800, 1900)),
        (200, 220, (1200, 1220), (1800, 1900)),
        (950, 960, (1200, 1220), (1950, 1960)),
        (900, 950, (1200, 1220), (1860, 1960)),
    ]:
        block.mark(start, end)
        known.note(1000, block, 100)
        assert known.first is not None
        assert known.last is not None
        assert (known.first.start, known.first.end) == first
        assert (known.last.start, known.last.end) == last
    assert known.last is not None
    assert not known.last.differs(WHOLE[860:960])
    assert known.last.differs(OTHER[860:960])
