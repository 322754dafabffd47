"""artifactfs.content: what is counted for the status (5.3), and how much of a file is kept (info)."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.disk_cache import DiskCache
from artifactfs.domain import ArtifactRef, ContentVersion
from tests.content_harness import BLOCK, Server, bench, noise

SIZE = 5 * BLOCK + 100


def version(size: int | None = SIZE) -> ContentVersion:
    return ContentVersion(ArtifactRef("10", "p/artifacts/f.bin"), size, None)


async def test_where_bytes_came_from(tmp_path: Path, autojump_clock: MockClock) -> None:
    """5.3: what the service sent, what the disk had, and what memory answered are counted, each where it came from."""
    server = Server(noise(SIZE))
    async with bench(server, directory=str(tmp_path)) as made:
        handle = await made.open(SIZE)
        await made.read_whole(handle)
        await made.keeper.flush()
        counted = made.shop.stats
        assert (counted.fetched_bytes, counted.fetched_blocks, counted.disk_bytes) == (SIZE, 6, 0)
        before = counted.memory_reads
        await handle.read(0, 10)
        assert counted.memory_reads == before + 1
        kept = await made.files.cached_bytes(version())
        assert (kept.memory_bytes, kept.disk_bytes, kept.handles) == (SIZE, SIZE, 1)
        handle.close()
        assert (await made.files.cached_bytes(version())).handles == 0
        assert await made.files.cached_bytes(version(None)) == await made.files.cached_bytes(version(7))
    async with bench(server, directory=str(tmp_path)) as made:
        # Another mount: only what is known by the time it was fetched is served.
        handle = await made.open(SIZE)
        await made.read_whole(handle)
        counted = made.shop.stats
        assert (counted.fetched_bytes, counted.disk_bytes, counted.disk_blocks) == (0, SIZE, 6)
        handle.close()


@pytest.mark.parametrize("fits", [True, False])
async def test_what_is_streamed(fits: bool, autojump_clock: MockClock) -> None:
    """4.2: a body that is read whole is reported while it is; one that fits nowhere is counted, and each new start."""
    size = 12 * BLOCK
    server = Server(noise(size), granted=False)
    async with bench(server, pool=(64 if fits else 4) * BLOCK) as made:
        handle = await made.open(size)
        await handle.read(5 * BLOCK, BLOCK)
        (streaming,) = made.shop.stats.streams
        assert (streaming.artifact, streaming.size) == (ArtifactRef("10", "p/artifacts/f.bin"), size)
        assert streaming.fits is fits
        assert 6 * BLOCK <= streaming.came_to < size
        await handle.read(0, 10)
        counted = made.shop.stats
        assert (counted.streamed, counted.restarted) == ((0, 0) if fits else (2, 1))
        handle.close()


def test_how_full_a_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5.3: bytes in all, free on the disk, and what was evicted are reported as last seen; of nothing seen, nothing."""
    store = BlockStore(str(tmp_path), max_bytes=1 << 16, min_free_bytes=0)
    assert (store.total_bytes, store.free_bytes) == (None, None)
    # Other programs use this disk, too: it stands still for one look.
    disk = os.statvfs(tmp_path)
    with monkeypatch.context() as standing:
        standing.setattr(os, "statvfs", lambda _where: disk)
        store.look()
    assert store.total_bytes == 0
    assert store.free_bytes == disk.f_bavail * disk.f_frsize
    key, stamp = bytes(16), Provenance(0.0, store.session)
    for index in range(12):
        store.save(key, index, [b"x" * 9000], stamp)
    assert store.total_bytes is not None
    assert 0 < store.total_bytes <= 1 << 16
    assert store.evicted_files > 0
    assert store.evicted_bytes == store.evicted_files * 12288
    assert store.held_bytes(key) == (12 - store.evicted_files) * 9000
    assert store.held_bytes(b"y" * 16) == 0
    another = BlockStore(str(tmp_path), max_bytes=1 << 16, min_free_bytes=0)
    another.look()
    assert another.total_bytes == store.total_bytes


def test_a_look_at_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: what cannot be seen is not known, and raises nothing."""

    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr(os, "statvfs", fail)
    store = BlockStore(str(tmp_path / "missing"), max_bytes=1 << 20, min_free_bytes=0)
    store.look()
    assert store.free_bytes is None


async def test_a_look_does_not_wait(tmp_path: Path, autojump_clock: MockClock) -> None:
    """5.1: the state is what was seen last; one look at a time, in a thread; without a store there is none."""
    looks = 0
    async with trio.open_nursery() as nursery:
        store = BlockStore(str(tmp_path), max_bytes=1 << 20, min_free_bytes=0)
        look = store.look

        def counted() -> None:
            nonlocal looks
            looks += 1
            look()

        store.look = counted  # type: ignore[method-assign]
        keeper = DiskCache(store, nursery)
        state = keeper.state()
        assert state is not None
        assert (state.directory, state.size_bytes, state.free_bytes) == (str(tmp_path), None, None)
        # What was set, and not what of it the blocks may take.
        assert state.limit_bytes == 1 << 20
        keeper.look_soon()
        keeper.look_soon()
        while keeper._looking:
            await wait_all_tasks_blocked(0.01)
        state = keeper.state()
        assert state is not None
        assert (state.size_bytes, looks) == (0, 1)
        none = DiskCache(None, nursery)
        none.look_soon()
        assert none.state() is None
        assert await none.held_bytes(bytes(16)) == 0
