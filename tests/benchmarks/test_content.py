"""What is in a file: the cache on disk, and a large file read from start to end as the kernel reads it."""

import itertools
from pathlib import Path

import pytest

from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.content_tuning import BLOCK_BYTES, ContentTuning
from artifactfs.util import threads
from tests.benchmarks.conftest import Loop, Measure
from tests.content_harness import Server, bench, noise

KEY = b"K" * 16
# What a mount of a user's is asked for at a time, and what a mount keeps in memory, in bytes.
ASKED_AT_A_TIME = 128 << 10
POOL = 48 << 20
AHEAD = 40 << 20
# What httpx hands on at a time.
CHUNK = 64 << 10


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(str(tmp_path), max_bytes=1 << 30, min_free_bytes=0)


def test_save(measure: Measure, store: BlockStore) -> None:
    """Save a block in the cache."""
    data, stamp, index = noise(BLOCK_BYTES), Provenance(1.0, store.session), itertools.count()

    assert measure(
        lambda at: store.save(KEY, at, [data], stamp),
        setup=lambda: (next(index),),
        rounds=100,
        size_bytes=BLOCK_BYTES,
    )


def test_load(measure: Measure, store: BlockStore) -> None:
    """Load a block from the cache."""
    data = noise(BLOCK_BYTES)
    store.save(KEY, 0, [data], Provenance(1.0, store.session))
    (block,) = measure(lambda: store.load(KEY, [0], lambda _: True), rounds=100, size_bytes=BLOCK_BYTES)
    assert block is not None
    assert bytes(block.data) == data


class Reading:
    """Reads one file from start to end, with `cache` as the cache, or without one."""

    def __init__(self, loop: Loop, mebibytes: int) -> None:
        self._loop = loop
        self._server = Server(noise(mebibytes << 20), chunk=CHUNK)
        self.size = mebibytes << 20

    def __call__(self, cache: Path | None) -> int:
        """Return how many bytes the server sent for it."""
        self._server.sent = 0
        self._loop.run(self._read, cache)
        return self._server.sent

    async def _read(self, cache: Path | None) -> None:
        directory = str(cache) if cache is not None else None
        tuning = ContentTuning()
        async with bench(
            self._server, directory=directory, pool=POOL, budget=AHEAD, tuning=tuning, run_in_thread=threads.run
        ) as made:
            # A settled run's: what is in the cache counts over remounts.
            handle = await made.open(self.size, run_stamp=b"R" * 16)
            read = 0
            while piece := await handle.read(read, ASKED_AT_A_TIME):
                read += len(piece)
            assert read == self.size
            handle.close()


@pytest.fixture
def reading(loop: Loop, mebibytes: int) -> Reading:
    return Reading(loop, mebibytes)


def test_read(measure: Measure, reading: Reading) -> None:
    """Read a file from the service, without a cache."""
    assert measure(lambda: reading(None), rounds=10, size_bytes=reading.size) == reading.size


def test_read_into_the_cache(measure: Measure, reading: Reading, tmp_path: Path) -> None:
    """Read a file from the service, into the cache."""
    number = itertools.count()
    sent = measure(reading, setup=lambda: (tmp_path / str(next(number)),), rounds=10, size_bytes=reading.size)
    assert sent == reading.size


def test_read_from_the_cache(measure: Measure, reading: Reading, tmp_path: Path) -> None:
    """Read a file from the cache."""
    reading(tmp_path)
    assert measure(lambda: reading(tmp_path), rounds=10, size_bytes=reading.size) == 0
