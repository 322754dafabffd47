"""artifactfs.content.block_store: groups, the blocks that follow one another in one file (docs/semantics.md 4.3)."""

import os
from pathlib import Path

import pytest

from artifactfs.content import block_tree
from artifactfs.content.block_format import GROUP_BLOCKS, Block, Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.content_tuning import BLOCK_BYTES
from tests.block_store_harness import (
    DATA,
    KEY,
    OTHER,
    PAGE,
    SMALL,
    anything,
    block_files,
    load,
    mount_path,
    stamp_of,
    store_in,
)


@pytest.fixture
def block_bytes() -> int:
    return BLOCK_BYTES


@pytest.fixture(params=[block_tree.SMALL_BYTES, 0], ids=["listed", "too large to list"])
def store(
    tmp_path: Path, block_bytes: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> BlockStore:
    """A store whose directories of versions are small, or not: then each name is looked for by itself."""
    monkeypatch.setattr(block_tree, "SMALL_BYTES", request.param)
    return store_in(tmp_path, block_bytes=block_bytes)


# A group's blocks, each another, with a header of less than a page.
GROUP = [bytes([65 + index]) * SMALL for index in range(GROUP_BLOCKS)]
GROUP_ON_DISK = 3 * PAGE
FIRST = 2 * GROUP_BLOCKS


# Let a block be a KiB.
small_blocks = pytest.mark.parametrize("block_bytes", [SMALL])


def bytes_of(found: list[Block | None]) -> list[bytes | None]:
    return [bytes(block.data) if block is not None else None for block in found]


def group_file(path: Path) -> Path:
    (file,) = (file for file in block_files(path) if file.name.endswith("-group"))
    return file


def test_a_group_is_loaded_block_by_block(tmp_path: Path) -> None:
    """4.3: what was saved together comes back together or one by one, each with the group's stamp; real sizes."""
    store = store_in(tmp_path)
    group = [os.urandom(BLOCK_BYTES) for _ in range(GROUP_BLOCKS)]
    assert store.save(KEY, FIRST, group, stamp_of(store))
    assert len(block_files(tmp_path)) == 1
    assert bytes_of(store.load(KEY, range(FIRST, FIRST + GROUP_BLOCKS), anything)) == group
    for index, data in enumerate(group, FIRST):
        found = load(store, KEY, index)
        assert found is not None
        assert bytes(found.data) == data
        assert found.stamp == stamp_of(store)


@small_blocks
def test_some_of_a_group(store: BlockStore) -> None:
    """4.3: in any order, over the borders of groups, beside what is not there."""
    store.save(KEY, FIRST, GROUP, stamp_of(store))
    store.save(KEY, FIRST - 1, [DATA], stamp_of(store))
    wanted = [FIRST + 5, FIRST - 1, FIRST + GROUP_BLOCKS, FIRST, 0, FIRST + 7]
    assert bytes_of(store.load(KEY, wanted, anything)) == [GROUP[5], DATA, None, GROUP[0], None, GROUP[7]]
    assert store.load(OTHER, [FIRST], anything) == [None]


@small_blocks
def test_the_end_of_a_file_beside_a_group(tmp_path: Path, store: BlockStore) -> None:
    """4.3: the last block of a file, which is shorter, is a file of its own."""
    store.save(KEY, 0, GROUP, stamp_of(store))
    store.save(KEY, GROUP_BLOCKS, [GROUP[0]], stamp_of(store))
    store.save(KEY, GROUP_BLOCKS + 1, [b"tail"], stamp_of(store))
    assert len(block_files(tmp_path)) == 3
    assert bytes_of(store.load(KEY, range(GROUP_BLOCKS + 2), anything)) == [*GROUP, GROUP[0], b"tail"]


@small_blocks
def test_any_flipped_bit_in_a_groups_header_is_noticed(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a bit that flipped in the header: nothing of the group is served, and it is gone."""
    store.save(KEY, 0, GROUP, stamp_of(store))
    file = group_file(tmp_path)
    good = file.read_bytes()
    for place in range(len(good) - GROUP_BLOCKS * SMALL):
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        assert store.load(KEY, range(GROUP_BLOCKS), anything) == [None] * GROUP_BLOCKS, place
        assert not file.exists()


@small_blocks
@pytest.mark.parametrize("index", range(GROUP_BLOCKS))
@pytest.mark.parametrize("offset", [0, 500, SMALL - 1])
def test_a_flipped_bit_in_any_block_of_a_group_is_noticed(
    tmp_path: Path, store: BlockStore, index: int, offset: int
) -> None:
    """4.4: the block that it is in is never served, alone or among others; those without damage may be."""
    store.save(KEY, 0, GROUP, stamp_of(store))
    file = group_file(tmp_path)
    bad = bytearray(file.read_bytes())
    bad[len(bad) - GROUP_BLOCKS * SMALL + index * SMALL + offset] ^= 1 << (offset % 8)
    file.write_bytes(bad)
    others = [other for other in range(GROUP_BLOCKS) if other != index]
    assert bytes_of(store.load(KEY, others, anything)) == [GROUP[other] for other in others]
    assert load(store, KEY, index) is None
    assert not file.exists()
    assert store.usage().size_bytes == 0
    file.write_bytes(bad)
    found = bytes_of(store.load(KEY, range(GROUP_BLOCKS), anything))
    assert found[index] is None
    assert not file.exists()


@small_blocks
@pytest.mark.parametrize("length", [0, 1, 100, -1, -SMALL, -GROUP_BLOCKS * SMALL])
def test_a_cut_group_is_noticed(tmp_path: Path, store: BlockStore, length: int) -> None:
    """4.4: of a file that is shorter than it was nothing is served, nor of one that is longer."""
    store.save(KEY, 0, GROUP, stamp_of(store))
    file = group_file(tmp_path)
    good = file.read_bytes()
    for bad in (good[:length], good + b"\0"):
        file.write_bytes(bad)
        assert store.load(KEY, [0], anything) == [None]
        assert not file.exists()


@small_blocks
def test_a_group_in_the_wrong_place_is_none(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a good group under the name of another, of a single block, or a single block under that of a group."""
    for first, name in ((0, mount_path(store, KEY, 0, 1)), (0, mount_path(store, KEY, GROUP_BLOCKS, GROUP_BLOCKS))):
        store.save(KEY, first, GROUP, stamp_of(store))
        os.rename(group_file(tmp_path), name)
        assert store.load(KEY, range(2 * GROUP_BLOCKS), anything) == [None] * 2 * GROUP_BLOCKS
        assert not block_files(tmp_path)
    store.save(KEY, 0, [GROUP[0]], stamp_of(store))
    os.rename(mount_path(store, KEY, 0, 1), mount_path(store, KEY, 0, GROUP_BLOCKS))
    assert load(store, KEY, 0) is None
    store.save(OTHER, 0, GROUP, stamp_of(store))
    os.rename(group_file(tmp_path), mount_path(store, KEY, 0, GROUP_BLOCKS))
    assert load(store, KEY, 0) is None


@small_blocks
def test_a_group_replaces_its_single_blocks(tmp_path: Path, store: BlockStore) -> None:
    """4.4: the blocks that a group holds are not held, nor counted, a second time; those beside it stay."""
    for index in range(-1, GROUP_BLOCKS + 1):
        store.save(KEY, FIRST + index, [DATA], stamp_of(store))
    store.save(KEY, FIRST, GROUP, stamp_of(store))
    assert len(block_files(tmp_path)) == 3
    usage = store.usage()
    assert (usage.size_bytes, usage.blocks, usage.files) == (GROUP_ON_DISK + 2 * PAGE, GROUP_BLOCKS + 2, 1)
    with store._total() as total:
        assert total.value == usage.size_bytes
    wanted = range(FIRST - 1, FIRST + GROUP_BLOCKS + 1)
    assert bytes_of(store.load(KEY, wanted, anything)) == [DATA, *GROUP, DATA]


@small_blocks
def test_behind_a_group_that_does_not_hold(tmp_path: Path, store: BlockStore) -> None:
    """4.3, 4.4: where a group is damaged or not accepted, it goes, and single blocks are served if they hold."""
    refused = Provenance(1.0, b"another!")
    for damaged in (True, False):
        assert store.save(KEY, 0, GROUP, stamp_of(store) if damaged else refused)
        assert store.save(KEY, 3, [DATA], stamp_of(store))
        file = group_file(tmp_path)
        if damaged:
            file.write_bytes(file.read_bytes()[:-1])
        assert bytes_of(store.load(KEY, [2, 3], lambda stamp: stamp != refused)) == [None, DATA]
        assert not file.exists()
    assert store.usage().blocks == 1


@pytest.mark.parametrize(
    ("max_bytes", "count"), [(0, 1), ((64 << 20) - 1, 1), (64 << 20, GROUP_BLOCKS), (10 << 30, GROUP_BLOCKS)]
)
def test_a_small_cache_takes_no_groups(tmp_path: Path, max_bytes: int, count: int) -> None:
    """4.4: a group goes as a whole, so a cache that has room for few of them keeps blocks."""
    assert store_in(tmp_path, max_bytes=max_bytes).group_blocks == count


@small_blocks
def test_usage_verify_and_clear_of_groups(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a group counts as the blocks in it; it is damaged if any of them is, and then goes as a whole."""
    for first in (0, GROUP_BLOCKS):
        store.save(KEY, first, GROUP, stamp_of(store))
    store.save(KEY, 2 * GROUP_BLOCKS, [b"tail"], stamp_of(store))
    store.save(OTHER, 0, GROUP, stamp_of(store))
    usage = store.usage()
    assert (usage.size_bytes, usage.blocks, usage.files) == (3 * GROUP_ON_DISK + PAGE, 3 * GROUP_BLOCKS + 1, 2)
    assert list(store.verify()) == []
    victim = Path(mount_path(store, KEY, GROUP_BLOCKS, GROUP_BLOCKS))
    good = victim.read_bytes()
    for index in range(GROUP_BLOCKS):
        bad = bytearray(good)
        bad[-1 - index * SMALL] ^= 1
        victim.write_bytes(bad)
        assert list(store.verify()) == [(str(victim), GROUP_ON_DISK, True)]
        assert not victim.exists()
    assert store.usage().blocks == 2 * GROUP_BLOCKS + 1
    assert store.clear().blocks == 2 * GROUP_BLOCKS + 1
    assert not block_files(tmp_path)


@small_blocks
def test_groups_are_discarded(tmp_path: Path, store: BlockStore) -> None:
    """4.1: of a version that is gone nothing stays, and of another everything."""
    for key in (KEY, OTHER):
        store.save(key, 0, GROUP, stamp_of(store))
        store.save(key, GROUP_BLOCKS, [b"tail"], stamp_of(store))
    store.discard(KEY)
    assert store.load(KEY, range(GROUP_BLOCKS + 1), anything) == [None] * (GROUP_BLOCKS + 1)
    assert bytes_of(store.load(OTHER, range(GROUP_BLOCKS + 1), anything)) == [*GROUP, b"tail"]
    assert store.usage().size_bytes == GROUP_ON_DISK + PAGE


def test_the_least_recently_used_group_goes_first(tmp_path: Path) -> None:
    """4.4: a group is used when any of its blocks is, and evicted as a whole; the limit holds."""
    limit = 40 * PAGE
    store = store_in(tmp_path, max_bytes=limit, block_bytes=SMALL)
    for number in range(13):
        assert store.save(KEY, number * GROUP_BLOCKS, GROUP, stamp_of(store))
        os.utime(mount_path(store, KEY, number * GROUP_BLOCKS, GROUP_BLOCKS), (number, number))
    assert load(store, KEY, 3) is not None  # used just now
    assert store.save(KEY, 13 * GROUP_BLOCKS, GROUP, stamp_of(store))
    assert store.usage().size_bytes <= limit
    groups = [bytes_of(store.load(KEY, range(at, at + GROUP_BLOCKS), anything)) for at in range(0, 14 * 8, 8)]
    assert [group in (GROUP, [None] * GROUP_BLOCKS) for group in groups] == [True] * 14
    assert groups[0] == groups[12] == groups[13] == GROUP
    assert groups[1] == [None] * GROUP_BLOCKS


@small_blocks
def test_a_disk_that_takes_part_of_a_group(store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: a write that the disk cut short, wherever in a group, leaves nothing of it and what was there before."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    left = 0

    def writev(fd: int, pieces: list[memoryview]) -> int:
        nonlocal left
        data = b"".join(pieces)
        left -= len(data)
        return os.write(fd, data if left >= 0 else data[: max(0, len(data) + left)])

    for room in (0, 100, 150, 1000, 3 * SMALL, GROUP_BLOCKS * SMALL):
        left, store._paused_until = room, 0.0
        with monkeypatch.context() as patched:
            patched.setattr(os, "writev", writev)
            assert not store.save(KEY, 0, GROUP, stamp_of(store))
        assert bytes_of(store.load(KEY, [0, 1], anything)) == [DATA, None]
        assert len(block_files(tmp_path)) == 1
