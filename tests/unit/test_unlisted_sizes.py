"""artifactfs.content: a file grows before an answer has told its size, which no listing gives (2.2, 2.4)."""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, Server, bench, noise

OTHER = noise(20 * BLOCK, seed=3)
WHOLE = noise(20 * BLOCK)


def version(*, settled: bool = False) -> ContentVersion:
    return ContentVersion(ArtifactRef("10", "p/log.txt"), None, settled=settled, lineage=7, is_listed=False)


def version_of(server: Server) -> bytes:
    return server.data[:8] + b"%8d" % len(server.data)


async def read(data: bytes, reads: Sequence[tuple[int, bool]]) -> None:
    """Read the head of a file that is `data` then, and offsets of that, each of an answer with a total, or without."""
    server = Server(WHOLE[:1000], told=False)
    server.validator = lambda: version_of(server)
    async with bench(server) as made:
        handle = await made.files.open(version(), stream=True)
        server.data = data
        with nullcontext() if data.startswith(WHOLE[:1000]) else pytest.raises(errors.Superseded):
            for offset, told in reads:
                server.told = told
                assert await handle.read(offset, 100) == data[offset : offset + 100]
            assert handle.size == len(data)
        assert not made.shop.validators_unreliable
        handle.close()


# From the end of the file on an answer has no bytes and no validator, and tells the size.
READS = {
    "a total": [(600, True)],
    "the end, a range": [(8000, False), (600, False)],
    "the end, a total": [(8000, False), (600, True)],
}


@pytest.mark.parametrize("reads", READS.values(), ids=READS)
@pytest.mark.parametrize("size", [1000, 1001, 1500, 5 * BLOCK])
async def test_it_was_appended_to(size: int, reads: list[tuple[int, bool]], autojump_clock: MockClock) -> None:
    """2.4: a size and a validator that come after the first bytes may be of the same file, which grew meanwhile."""
    await read(WHOLE[:size], reads)


@pytest.mark.parametrize("reads", READS.values(), ids=READS)
@pytest.mark.parametrize("size", [300, 999, 1001, 5 * BLOCK])
async def test_it_was_replaced(size: int, reads: list[tuple[int, bool]], autojump_clock: MockClock) -> None:
    """4.1: or of another file."""
    await read(OTHER[:size], reads)


async def test_it_was_cut(autojump_clock: MockClock) -> None:
    """4.1: a file that is shorter than what came of it is another version, whatever tells its size."""
    await read(WHOLE[:200], [(8000, False)])


async def test_the_run_is_over(autojump_clock: MockClock) -> None:
    """2.2, 7: nothing grows there, so the answer that tells the size is the last one."""
    server = Server(WHOLE[:1000], told=False)
    server.validator = lambda: version_of(server)
    async with bench(server) as made:
        handle = await made.files.open(version(settled=True), stream=True)
        assert await handle.read(8000, 100) == b""
        assert handle.size == 1000
        assert len(server.asked) == 2
        handle.close()
