"""artifactfs.content.growth: a version grows where the larger file continues it, and only there (2.4, 3.5)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.content.reader import OpenFile
from artifactfs.content.version_blocks import VersionBlocks
from artifactfs.domain import ArtifactRef, ContentBody, ContentVersion
from tests.content_harness import BLOCK, DEADLINE_S, GLANCE, Bench, Server, bench, noise

T = TypeVar("T")

OTHER = noise(100 * BLOCK, seed=3)
WHOLE = noise(100 * BLOCK)
# Smaller than a block; the end of a block; several blocks and a part.
SIZES = [1, 700, BLOCK, 3 * BLOCK + 100]


async def opened(made: Bench, size: int | None, *, settled: bool = False) -> OpenFile:
    version = ContentVersion(ArtifactRef("10", "p/log.txt"), size, settled=settled, lineage=7)
    return await made.files.open(version)


async def grown(made: Bench, handle: OpenFile, size: int) -> None:
    await handle.grow(ContentVersion(ArtifactRef("10", "p/log.txt"), size, settled=False, lineage=7))


def version_of(server: Server) -> bytes:
    return b"%16d" % len(server.data)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("more", [1, 500, 5 * BLOCK + 3])
@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("validators", [True, False], ids=["validators", "none"])
@pytest.mark.parametrize("says_total", [True, False], ids=["total", "no total"])
async def test_an_open_file_reads_on(
    size: int, more: int, granted: bool, validators: bool, says_total: bool, autojump_clock: MockClock
) -> None:
    """3.5: an open handle reads past the old end; what was read stays; each byte is the server's."""
    server = Server(WHOLE[:size], granted=granted, told=says_total)
    if validators:
        server.validator = lambda: version_of(server)
    async with bench(server) as made:
        handle = await opened(made, size)
        assert await made.read_whole(handle) == WHOLE[:size]
        for total in (size + more, size + 2 * more):
            server.data = WHOLE[:total]
            await grown(made, handle, total)
            assert handle.size == total
            assert await made.read_whole(handle) == WHOLE[:total]
        handle.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("differs_at", [0, -1], ids=["start", "end"])
@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_another_file_that_is_larger(
    size: int, differs_at: int, granted: bool, autojump_clock: MockClock
) -> None:
    """2.4: where the first byte or the last known one is another, it is another version, for all readers."""
    server = Server(WHOLE[:size], granted=granted)
    async with bench(server) as made:
        handle, second = await opened(made, size), await opened(made, size)
        assert await made.read_whole(handle) == WHOLE[:size]
        changed = bytearray(WHOLE[: size + 10])
        changed[0 if differs_at == 0 else size - 1] ^= 1
        server.data = bytes(changed)
        with pytest.raises(errors.Superseded):
            await grown(made, handle, size + 10)
        with pytest.raises(errors.Superseded):
            await second.read(0, 1)
        for each in (handle, second):
            each.close()


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_it_is_opened_again(granted: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    """3.5, 4.3: a file that grew while it was closed keeps its bytes; only new ones, and the proof, are fetched."""
    size = 40 * BLOCK + 5
    server = Server(WHOLE[:size], granted=granted)
    server.validator = lambda: version_of(server)
    async with bench(server, directory=str(tmp_path / "cache"), pool=4 * BLOCK) as made:
        handle = await opened(made, size)
        assert await made.read_whole(handle) == WHOLE[:size]
        handle.close()
        await made.settle()
        server.data = WHOLE[: size + 3 * BLOCK]
        sent = server.sent
        handle = await opened(made, size + 3 * BLOCK)
        assert await made.read_whole(handle) == WHOLE[: size + 3 * BLOCK]
        if granted:
            assert server.sent - sent <= 6 * BLOCK
        handle.close()


async def test_an_open_while_another_file_is_found(autojump_clock: MockClock, tmp_path: Path) -> None:
    """2.4: until all know that a file is another one, it is not opened under the number of the first."""

    async def slowly(call: Callable[..., T], *args: object, **_: object) -> T:
        await trio.sleep(1)
        return call(*args)

    server = Server(WHOLE[:700])
    async with bench(server, directory=str(tmp_path), run_in_thread=slowly) as made:
        handle = await opened(made, 700)
        assert await made.read_whole(handle) == WHOLE[:700]
        server.data = OTHER[:900]
        async with trio.open_nursery() as nursery:

            async def prove() -> None:
                with pytest.raises(errors.Superseded):
                    await grown(made, handle, 900)

            nursery.start_soon(prove)
            for _ in range(40):
                await trio.sleep(0.1)
                if len(server.asked) > 1:
                    with pytest.raises(errors.Superseded):
                        await opened(made, 700)
        handle.close()


async def test_another_file_at_open(autojump_clock: MockClock) -> None:
    """2.4: a larger file that differs from what is cached fails at open, where the kernel looks the name up again."""
    server = Server(WHOLE[:2000])
    async with bench(server) as made:
        handle = await opened(made, 2000)
        assert await made.read_whole(handle) == WHOLE[:2000]
        handle.close()
        server.data = OTHER[:3000]
        with pytest.raises(errors.Superseded):
            await opened(made, 3000)


async def test_nothing_known_needs_no_proof(autojump_clock: MockClock) -> None:
    """2.4: where nothing was read, nothing can be mixed, and no request is made."""
    server = Server(WHOLE[:2000])
    async with bench(server) as made:
        handle = await opened(made, 2000, settled=True)
        server.data = OTHER[:3000]
        await grown(made, handle, 3000)
        assert server.asked == []
        assert await made.read_whole(handle) == OTHER[:3000]
        handle.close()


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_the_listing_runs_ahead(granted: bool, autojump_clock: MockClock) -> None:
    """3.5: contents that are shorter than the listing says are read to their end, and on when they come."""
    server = Server(WHOLE[:2000], granted=granted)
    async with bench(server) as made:
        handle = await opened(made, 2000)
        assert await made.read_whole(handle) == WHOLE[:2000]
        await grown(made, handle, 5000)
        assert handle.size == 2000
        server.data = WHOLE[:4000]
        await grown(made, handle, 5000)
        assert await made.read_whole(handle) == WHOLE[:4000]
        handle.close()


async def test_the_listing_lags_behind(autojump_clock: MockClock) -> None:
    """3.5: an answer of a larger file lets the version grow, if it is of a run that goes on."""
    size = 5 * BLOCK
    server = Server(WHOLE[:size])
    async with bench(server) as made:
        handle = await opened(made, size)
        assert bytes(await handle.read(0, 100)) == WHOLE[:100]
        server.data = WHOLE[: 9 * BLOCK]
        assert await made.read_whole(handle) == WHOLE[: 9 * BLOCK]
        handle.close()


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("is_appended", [True, False], ids=["grown", "replaced"])
async def test_another_validator_without_a_size(granted: bool, is_appended: bool, autojump_clock: MockClock) -> None:
    """3.5, 4.1: where answers tell no size, a validator that changed may be that of a longer file: it is compared."""
    size = 40 * BLOCK
    server = Server(WHOLE[:size], granted=granted, told=False)
    server.validator = lambda: server.data[10 * BLOCK :][:8] + version_of(server)
    async with bench(server, pool=8 * BLOCK) as made:
        handle = await opened(made, size)
        assert bytes(await handle.read(0, 3 * BLOCK)) == WHOLE[: 3 * BLOCK]
        await trio.sleep(60)  # no read follows, so a whole body is given up
        if is_appended:
            server.data = WHOLE[: size + BLOCK]
            assert await made.read_whole(handle) == server.data
        else:
            asked = len(server.asked)
            server.data = WHOLE[: 10 * BLOCK] + OTHER[10 * BLOCK : size]
            with pytest.raises(errors.Superseded):
                await made.read_whole(handle)
            assert len(server.asked) - asked <= 7
        handle.close()


async def test_a_finished_run_does_not_grow(autojump_clock: MockClock) -> None:
    """4.1: of a finished run an answer of a larger file is another version: the kernel must learn its size."""
    server = Server(WHOLE[: 5 * BLOCK])
    async with bench(server) as made:
        handle = await opened(made, 5 * BLOCK, settled=True)
        assert bytes(await handle.read(0, GLANCE)) == WHOLE[:GLANCE]
        server.data = WHOLE[: 9 * BLOCK]
        with pytest.raises(errors.Superseded) as caught:
            await handle.read(3 * BLOCK, 100)
        assert caught.value.size_bytes == 9 * BLOCK
        handle.close()


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_it_was_truncated(granted: bool, autojump_clock: MockClock) -> None:
    """2.4: a file that is shorter than what was read of it is another version, whatever the listing says."""
    server = Server(WHOLE[:3000], granted=granted)
    async with bench(server) as made:
        handle = await opened(made, 3000)
        assert await made.read_whole(handle) == WHOLE[:3000]
        server.data = WHOLE[:1000]
        with pytest.raises(errors.Superseded):
            await grown(made, handle, 4000)
        handle.close()


@pytest.mark.parametrize("granted", [True, False], ids=["ranges", "whole"])
async def test_a_proof_breaks_off(granted: bool, autojump_clock: MockClock) -> None:
    """5.1: a proof that breaks off is tried again; one that stalls ends with the deadline, and the file stays."""
    server = Server(WHOLE[:3000], granted=granted)
    async with bench(server) as made:
        handle = await opened(made, 3000)
        assert await made.read_whole(handle) == WHOLE[:3000]
        server.data = WHOLE[:6000]
        server.cuts = [800, 800]
        await grown(made, handle, 6000)
        assert handle.size == 6000
        server.data, server.stall = WHOLE[:7000], True
        with pytest.raises(errors.TimedOut):
            await grown(made, handle, 7000)
        server.stall = False
        assert bytes(await handle.read(0, 100)) == WHOLE[:100]
        handle.close()


class Capped(Server):
    """A server that grants at most so many bytes of a range."""

    most = 100

    @asynccontextmanager
    async def get(
        self, artifact: ArtifactRef, start: int, end: int | None, *, size: int | None
    ) -> AsyncIterator[ContentBody]:
        assert end is not None
        async with super().get(artifact, start, min(end, start + self.most), size=size) as body:
            yield body


@pytest.mark.parametrize("data", [WHOLE[:900], OTHER[:900]], ids=["grown", "replaced"])
async def test_a_server_that_grants_less_than_was_asked_for(data: bytes, autojump_clock: MockClock) -> None:
    """2.4: growth is proven, or refuted, with as many answers as the known bytes need."""
    server = Capped(WHOLE[:700])
    async with bench(server) as made:
        handle = await opened(made, 700)
        assert await made.read_whole(handle) == WHOLE[:700]
        server.data = data
        if data == OTHER[:900]:
            with pytest.raises(errors.Superseded):
                await grown(made, handle, 900)
        else:
            await grown(made, handle, 900)
            assert await made.read_whole(handle) == data
        handle.close()


@pytest.mark.parametrize("size", [0, 300])
async def test_news_of_two_files(size: int, autojump_clock: MockClock) -> None:
    """2.4, 4.1: where a file is replaced between two answers of a proof, no reader gets bytes of both."""
    server = Capped(WHOLE[:size], told=False, validator=lambda: server.data[-8:] + b"%8d" % len(server.data))
    artifact = ArtifactRef("10", "p/log.txt")
    async with bench(server) as made:
        handle = await made.files.open(ContentVersion(artifact, size, settled=False, lineage=7, is_listed=False))
        assert await made.read_whole(handle) == WHOLE[:size]
        await trio.sleep(1)
        server.data, server.most, begun = WHOLE[:900], 400, len(server.asked)
        # It begins with what is known of the other one.
        other = WHOLE[:size] + OTHER[size:1500]
        server.before_answer = lambda number: setattr(server, "data", other) if number > begun else None
        await handle.grow(ContentVersion(artifact, size, settled=False, lineage=7, is_listed=False), 0.0)
        assert await made.read_whole(handle) == other
        handle.close()


async def test_a_server_that_grants_a_byte_at_a_time(autojump_clock: MockClock) -> None:
    """5.1: answers that bring next to nothing are no progress of a proof, however many they are."""
    server = Capped(WHOLE[:700])
    async with bench(server) as made:
        handle = await opened(made, 700)
        assert await made.read_whole(handle) == WHOLE[:700]
        server.data, server.most, server.pause_s = WHOLE[:900], 1, 0.4 * DEADLINE_S
        began = trio.current_time()
        with pytest.raises(errors.TimedOut):
            await grown(made, handle, 900)
        assert trio.current_time() - began == DEADLINE_S
        # Slow answers that bring something are.
        server.most = made.shop.tuning.min_progress_bytes
        await grown(made, handle, 900)
        handle.close()


@pytest.mark.parametrize("most", [300, 700, 100 * BLOCK])
@pytest.mark.parametrize("listed", [4000, 5000, None], ids=["listed", "ahead", "not listed"])
async def test_ranges_that_do_not_tell_the_size(most: int, listed: int | None, autojump_clock: MockClock) -> None:
    """3.5: the end of a range is the end of the file only where no bytes are behind it, however little is granted."""
    server = Capped(WHOLE[:1000], told=False, validator=lambda: version_of(server))
    server.most = most
    async with bench(server) as made:
        handle = await opened(made, 1000)
        assert await made.read_whole(handle) == WHOLE[:1000]
        size, asked, sent = 50 * BLOCK if listed is None else 4000, len(server.asked), server.sent
        server.data = WHOLE[:size]
        version = ContentVersion(
            ArtifactRef("10", "p/log.txt"), listed or 1000, settled=False, lineage=7, is_listed=listed is not None
        )
        await trio.sleep(1)
        await handle.grow(version, 0.0)
        assert handle.size == size
        if most == 100 * BLOCK:
            assert len(server.asked) - asked <= 8
        assert handle.validator == version_of(server)
        assert await made.read_whole(handle) == WHOLE[:size]
        # What the proof brought is not fetched again; the known bytes were.
        assert server.sent - sent <= size + BLOCK
        handle.close()


async def test_a_body_whose_end_nothing_marks_is_all_where_the_listing_says_so(autojump_clock: MockClock) -> None:
    """3.5: listing and contents agree on less than was read: another version, though the body may have been cut."""
    server = Server(WHOLE[:700], granted=False, told=False, framed=False)
    version = ContentVersion(ArtifactRef("10", "p/log.txt"), 700, settled=False, lineage=7)
    async with bench(server) as made:
        handle = await opened(made, 700)
        assert await made.read_whole(handle) == WHOLE[:700]
        server.data = WHOLE[:500]
        with pytest.raises(errors.ConnectionLost):
            await handle.grow(version, doubted_bytes=600)
        with pytest.raises(errors.Superseded) as caught:
            await handle.grow(version, doubted_bytes=500)
        assert caught.value.size_bytes == 500
        handle.close()


async def test_a_body_whose_end_nothing_marks_is_no_proof(autojump_clock: MockClock) -> None:
    """4.1: less than is listed, up to the end of a connection, is a body that was cut: the file does not end there."""
    server = Server(WHOLE[:700], granted=False, told=False, framed=False)
    async with bench(server) as made:
        handle = await opened(made, 700)
        assert await made.read_whole(handle) == WHOLE[:700]
        server.data = WHOLE[: 5 * BLOCK]
        for end in (700, 900):
            server.ends = [end] * 3
            with pytest.raises(errors.ShortBody):
                await grown(made, handle, 5 * BLOCK)
            assert handle.size == 700
        server.ends = [900]
        await grown(made, handle, 5 * BLOCK)
        assert await made.read_whole(handle) == WHOLE[: 5 * BLOCK]
        handle.close()


async def test_a_second_body_without_length_and_validator(autojump_clock: MockClock) -> None:
    """4.1: a body that contradicts what is known of the file is another version: no reader gets bytes of both."""
    size = 8 * BLOCK
    server = Server(WHOLE[:size], granted=False, told=False)
    async with bench(server) as made:
        handle = await opened(made, size, settled=True)
        assert bytes(await handle.read(0, 100)) == WHOLE[:100]
        await trio.sleep(60)  # no read follows, so the body is given up
        assert server.open_bodies == 0
        server.data = OTHER[:size]
        with pytest.raises(errors.Superseded):
            await handle.read(5 * BLOCK, 100)
        handle.close()


async def test_a_file_that_grows_for_months(autojump_clock: MockClock) -> None:
    """4.3: what is remembered of a file does not grow with how often it grew; its latest validators are kept."""
    async with bench(Server(b"")) as made:
        blocks = VersionBlocks(made.shop, 100, lambda _size: b"key", None)
        for number in range(5_000):
            blocks.grow(100 + number, b"%16d" % number, compared=True)
        assert list(blocks.earlier_validators) == [b"%16d" % number for number in range(3_999, 4_999)]
