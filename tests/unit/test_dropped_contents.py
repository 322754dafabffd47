"""artifactfs.content: what was dropped is served no more, and no reader gets bytes of before and after (3.6, 4.1)."""

import errno
import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.content.cache_places import CachePart
from artifactfs.content.reader import OpenFile
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, Bench, Server, bench, inline, noise
from tests.disk_caches import KEY, Disk, keeping, save

T = TypeVar("T")
SIZE = 12 * BLOCK + 77
OLD, NEW = noise(SIZE), noise(SIZE, seed=1)
PART = CachePart("site", "7/sub")
MINE, OTHER = "7/sub/f.bin", "7/g.bin"


async def opened(
    made: Bench, place: str = MINE, *, size: int | None = SIZE, settled: bool = True, lineage: int | None = None
) -> OpenFile:
    artifact, is_listed = ArtifactRef("10", f"p/{place}"), size is not None
    run = ContentVersion(artifact, size, settled=settled, lineage=lineage, is_listed=is_listed, place=place)
    return await made.files.open(run, stream=True)


async def drop(made: Bench) -> int:
    """Drop PART; returns how many blocks are gone from the disk."""
    made.files.drop(PART.covers)
    return (await made.keeper.delete(PART.covers)).blocks


async def whole(made: Bench, place: str = MINE) -> bytes:
    handle = await opened(made, place)
    try:
        return await made.read_whole(handle)
    finally:
        handle.close()


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("flushed", [True, False])
async def test_it_is_fetched_again(on_disk: bool, flushed: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    """3.6: memory, the queue to the disk and the disk have nothing more of it, and all of what is beside it."""
    server = Server(OLD)
    async with bench(server, directory=str(tmp_path / "cache") if on_disk else None) as made:
        assert await whole(made) == await whole(made, OTHER) == OLD
        if flushed:
            await made.settle()
        server.data, asked = NEW, len(server.asked)
        gone = await drop(made)
        assert gone == (13 if on_disk else 0) or not flushed
        assert await whole(made, OTHER) == OLD
        assert len(server.asked) == asked
        assert await whole(made) == NEW
        asked = len(server.asked)
        await made.settle()
        assert await whole(made) == NEW
        made.shop.pool.clear()
        assert await whole(made) == NEW
        assert (len(server.asked) == asked) == on_disk


@pytest.mark.parametrize("granted", [True, False])
async def test_a_fetch_under_way(granted: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    """3.6: an answer that began before brings nothing any more, neither to a reader nor to the disk."""
    server = Server(OLD, granted=granted, pause_s=1.0, validator=lambda: b"A" * 16)
    found: list[bytes] = []
    async with bench(server, directory=str(tmp_path / "cache")) as made:
        handle = await opened(made)

        async def read() -> None:
            found.append(bytes(await handle.read(0, SIZE)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(4.5)
            assert server.sent
            server.data = NEW
            await drop(made)
        # The validator says that both are one version; the reader got nothing before.
        assert found == [NEW]
        handle.close()
        await made.settle()
        made.shop.pool.clear()
        assert await whole(made) == NEW


@pytest.mark.parametrize("validators", ["none", "noise", "one", "another", "lost"])
@pytest.mark.parametrize("granted", [True, False])
async def test_an_open_file(validators: str, granted: bool, autojump_clock: MockClock) -> None:
    """3.6: it goes on if the next answer has the validator that its bytes came with, and in no other case."""
    count = itertools.count()
    version = [b"A" * 16]
    after: dict[str, Callable[[], bytes | None]] = {
        "none": lambda: None,
        "noise": lambda: next(count).to_bytes(16, "big"),
        "one": lambda: version[0],
        "another": lambda: version[0],
        "lost": lambda: version[0],
    }
    server = Server(OLD, granted=granted, validator=after[validators])
    async with bench(server) as made:
        handle = await opened(made)
        assert await handle.read(0, 2 * BLOCK) == OLD[: 2 * BLOCK]
        beside = await opened(made, OTHER)
        assert await beside.read(0, BLOCK) == OLD[:BLOCK]
        await drop(made)
        assert handle.dead == (validators == "none")
        if validators == "another":
            version[0] = b"B" * 16
        elif validators == "lost":
            server.validator = lambda: None
        if validators == "one":
            assert await made.read_whole(handle) == OLD
        else:
            with pytest.raises(errors.Superseded):
                await handle.read(3 * BLOCK, 10)
            assert handle.dead
            with pytest.raises(errors.Superseded):
                await handle.read(0, 10)
        assert await beside.read(10, 10) == OLD[10:20]
        # What follows a file that is gone has another number.
        fresh = await opened(made, lineage=2 if handle.dead else None)
        assert await made.read_whole(fresh) == OLD
        for each in (handle, beside, fresh):
            each.close()


async def test_other_keys_after_that(autojump_clock: MockClock) -> None:
    """3.6, 6.3: what an open file must prove stays so when the keys turn out to be another account's."""
    server = Server(OLD, validator=lambda: b"A" * 16)
    async with bench(server) as made:
        handle = await opened(made)
        await handle.read(0, 10)
        await drop(made)
        made.files.switch_account("site\0another")
        server.data, server.validator = NEW, lambda: None
        with pytest.raises(errors.Superseded):
            await handle.read(10, 10)
        handle.close()


async def test_a_larger_file_is_not_taken_for_grown(autojump_clock: MockClock) -> None:
    """3.6, 2.4: what an open file had is dropped, so nothing proves that a larger one continues it."""
    server = Server(OLD, validator=lambda: b"A" * 16)
    async with bench(server) as made:
        version = ContentVersion(ArtifactRef("10", "p/f"), SIZE, settled=False, lineage=5, place=MINE)
        handle = await made.files.open(version)
        await handle.read(0, 10)
        await drop(made)
        assert not handle.dead
        server.data = NEW + NEW
        with pytest.raises(errors.Superseded):
            await handle.grow(ContentVersion(ArtifactRef("10", "p/f"), 2 * SIZE, settled=False, lineage=5, place=MINE))
        handle.close()


async def test_a_disk_that_lets_nothing_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """3.6: old blocks that cannot be deleted are not served by this mount either."""
    server = Server(OLD)
    async with bench(server, directory=str(tmp_path / "cache")) as made:
        assert await whole(made) == OLD
        await made.settle()
        server.data = NEW
        made.files.drop(PART.covers)
        with monkeypatch.context() as patched:
            patched.setattr("artifactfs.content.block_tree.unlink", lambda *_: False)
            assert (await made.keeper.delete(PART.covers)).left_blocks == 13
        assert await whole(made) == NEW
        made.shop.pool.clear()
        assert await whole(made) == NEW
        assert (await drop(made)) == 13


async def test_without_threads(tmp_path: Path, autojump_clock: MockClock) -> None:
    """3.6, 5.5: where no thread can be had nothing is deleted, which is said, and nothing old is served."""
    lacking = [False]

    async def run(
        call: Callable[..., T],
        *args: object,
        limiter: trio.CapacityLimiter | None = None,
        abandon_on_cancel: bool = False,
    ) -> T:
        if lacking[0]:
            raise errors.NoThread(OSError(errno.EAGAIN, "no"))
        return await inline(call, *args)

    server = Server(OLD)
    async with bench(server, directory=str(tmp_path / "cache"), run_in_thread=run) as made:
        assert await whole(made) == OLD
        await made.settle()
        server.data, lacking[0] = NEW, True
        with pytest.raises(errors.NoThread):
            await drop(made)
        lacking[0] = False
        assert await whole(made) == NEW


async def test_a_save_that_waits_for_room(autojump_clock: MockClock) -> None:
    """3.6: a block that waits for room in the queue when its file is dropped does not come on the disk after that."""
    disk = Disk(call_s=1.5)
    async with keeping(disk, queue=5) as made:
        async with trio.open_nursery() as nursery:
            for index in (0, 1):
                nursery.start_soon(save, made, index)
                await wait_all_tasks_blocked()
            made.refuse(lambda _place: True)
        await made.flush()
    # The first one was being written; `delete` waits for that.
    assert set(disk.kept) == {(KEY, 0)}


@pytest.mark.parametrize("seed", range(40))
async def test_no_reader_mixes(seed: int, tmp_path: Path, autojump_clock: MockClock) -> None:
    """3.6, 4.1: every handle gets one version or Superseded, whatever is rewritten, dropped, read and in flight."""
    rng = random.Random(seed)
    version = [0]
    count = itertools.count()
    kinds: Sequence[Callable[[], bytes | None]] = (
        lambda: None,
        lambda: next(count).to_bytes(16, "big"),
        lambda: version[0].to_bytes(16, "big"),
    )
    server = Server(OLD, granted=rng.random() < 0.7, pause_s=rng.choice([0.0, 0.4]), validator=rng.choice(kinds))
    written = [OLD]
    directory = str(tmp_path / "cache") if rng.random() < 0.7 else None
    async with bench(server, directory=directory, pool=rng.choice([4, 64]) * BLOCK) as made:

        async def reader() -> None:
            for _ in range(4):
                try:
                    handle = await opened(made, settled=rng.random() < 0.5)
                except errors.Superseded:
                    continue
                possible = written[:]
                try:
                    for _ in range(rng.randrange(1, 12)):
                        at, size = rng.randrange(SIZE), rng.randrange(1, 3 * BLOCK)
                        piece = bytes(await handle.read(at, size))
                        possible = [data for data in (*possible, *written) if data[at : at + size] == piece]
                        assert possible, "bytes of two versions"
                        possible = [data for data in written if data in possible]
                        await trio.sleep(rng.choice([0.0, 0.3, 2.0]))
                except errors.Superseded:
                    pass
                finally:
                    handle.close()

        async def writer() -> None:
            for number in range(1, 7):
                await trio.sleep(rng.uniform(0.1, 4.0))
                if rng.random() < 0.7:
                    version[0] = number
                    written.append(noise(SIZE, seed=number))
                    server.data = written[-1]
                await drop(made)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reader)
            nursery.start_soon(writer)
        assert await whole(made) == server.data
