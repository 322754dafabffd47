"""artifactfs.content: what is kept of files is read without the service, and nothing is asked (8.3)."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, GLANCE, LISTING_TTL_S, NOW_S, Server, bench, noise

SIZE = 40 * BLOCK
DATA = noise(SIZE)
MIDDLE = 20 * BLOCK
FILE = ArtifactRef("10", "p/f.bin")
# Of a run that goes on: with the service, `open` asks for the head of the file, too.
RUNNING = ContentVersion(FILE, SIZE, settled=False, lineage=7)


async def kept(server: Server, cache: Path) -> None:
    """Read two blocks in the middle of the file in a mount that ends then: they, and no head, are on the disk."""
    async with bench(server, directory=str(cache)) as made:
        handle = await made.files.open(ContentVersion(FILE, SIZE, lineage=7))
        assert await handle.read(MIDDLE, 2 * BLOCK) == DATA[MIDDLE : MIDDLE + 2 * BLOCK]
        handle.close()
        await made.settle()


def offline(server: Server) -> None:
    server.is_offline, server.room, server.ranges = True, False, None
    server.asked.clear()


async def test_what_is_kept_is_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.3: a file of a run that is not settled opens without its head, and reads where it is kept; else ENETDOWN."""
    server = Server(DATA, validator=lambda: b"v1" * 8)
    await kept(server, tmp_path / "cache")
    offline(server)
    async with bench(server, directory=str(tmp_path / "cache"), now_s=[NOW_S + 7 * 86400]) as made:
        handle = await made.files.open(RUNNING)
        assert await handle.read(MIDDLE, 2 * BLOCK) == DATA[MIDDLE : MIDDLE + 2 * BLOCK]
        for offset in (0, MIDDLE - 1, MIDDLE + 2 * BLOCK, SIZE - 1):
            with pytest.raises(errors.Offline):
                await handle.read(offset, 1)
        assert await handle.read(MIDDLE, GLANCE) == DATA[MIDDLE : MIDDLE + GLANCE]
        handle.close()
        never = await made.files.open(ContentVersion(ArtifactRef("10", "p/never.bin"), SIZE, settled=False))
        with pytest.raises(errors.Offline):
            await never.read(0, 1)
        never.close()
        with pytest.raises(errors.Offline):  # nor is its size known
            await made.files.open(ContentVersion(ArtifactRef("10", "p/unsized.bin"), None))
        assert trio.current_time() == 0
    assert not server.asked


async def test_a_size_that_only_contents_tell(tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.3: of a settled run it is kept beside the blocks; no answer is needed to open the file again."""
    server = Server(noise(GLANCE // 2), validator=lambda: b"v1" * 8)
    unsized = ContentVersion(ArtifactRef("10", "p/unsized.bin"), None)
    async with bench(server, directory=str(tmp_path / "cache")) as made:
        handle = await made.files.open(unsized)
        assert await made.read_whole(handle) == server.data
        handle.close()
        await made.settle()
    offline(server)
    async with bench(server, directory=str(tmp_path / "cache")) as made:
        for told in (None, len(server.data), len(server.data)):
            # The tree knows the size, as of a file that was looked up before: so does its store after a remount.
            handle = await made.files.open(ContentVersion(unsized.artifact, told, is_listed=False))
            assert handle.size == len(server.data)
            assert await made.read_whole(handle) == server.data
            await trio.sleep(LISTING_TTL_S + 1)
            again = await made.files.open(ContentVersion(unsized.artifact, handle.size, is_listed=False))
            again.close()
            handle.close()
    assert not server.asked


@pytest.mark.parametrize("changed", [False, True])
async def test_an_open_file_goes_on_with_the_service(changed: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    """8.5: what was not kept is fetched once the service can be asked; of another version it is ESTALE, and no byte."""
    server = Server(DATA, validator=lambda: b"v1" * 8)
    await kept(server, tmp_path / "cache")
    offline(server)
    async with bench(server, directory=str(tmp_path / "cache")) as made:
        handle = await made.files.open(RUNNING)
        assert await handle.read(MIDDLE, BLOCK) == DATA[MIDDLE : MIDDLE + BLOCK]
        with pytest.raises(errors.Offline):
            await handle.read(0, BLOCK)
        server.is_offline, server.room = False, True
        if changed:
            server.data, server.validator = noise(SIZE, seed=1), lambda: b"v2" * 8
            with pytest.raises(errors.Superseded):
                await handle.read(0, BLOCK)
        else:
            assert await made.read_whole(handle) == DATA
        handle.close()
