"""artifactfs.content.block_eviction: what the user keeps stays, and all else goes in the order of its use."""

import os
from pathlib import Path

import pytest

from artifactfs.content import cache_places
from artifactfs.content.block_format import GROUP_BLOCKS
from artifactfs.content.block_store import BlockStore
from artifactfs.pins import Pin, PinFile
from tests.block_store_harness import PAGE, SMALL, block_files, load, stamp_of

SITE = "https://api.example.org"
BLOCK = b"x" * SMALL
# Each block has a page on the disk, of which a 64th is left free.
PAGES = 64
FITTING = PAGES - 1


def key(number: int, place: str, site: str = SITE) -> bytes:
    return number.to_bytes(16, "big") + cache_places.encode(site, place, "1")


def store_of(directory: Path) -> BlockStore:
    store = BlockStore(str(directory), max_bytes=PAGES * PAGE, min_free_bytes=0, block_bytes=SMALL, pins=PinFile)
    assert store.claim()
    return store


def pin(directory: Path, run_id: int, path: str = "", site: str = SITE) -> None:
    PinFile(str(directory)).add(Pin(site, "=me", run_id, path, 1.0))


def keep(store: BlockStore, number: int, place: str, site: str = SITE) -> bytes:
    """Save a block, which was last used at a time of its own."""
    its_key = key(number, place, site)
    assert store.save(its_key, 0, [BLOCK], stamp_of(store))
    name = its_key[:16].hex()
    for file in Path(store.directory, "blocks-1", name[:2], name[2:]).iterdir():
        os.utime(file, (number, number))
    return its_key


def has(store: BlockStore, its_key: bytes) -> bool:
    name = its_key[:16].hex()
    return Path(store.directory, "blocks-1", name[:2], name[2:]).is_dir()


def test_pinned_blocks_survive_everything_else(tmp_path: Path) -> None:
    """What is pinned stays while ten times the cache is written; what is beside it goes, the oldest first."""
    store = store_of(tmp_path)
    pin(tmp_path, 7)
    pin(tmp_path, 8, "sub")
    kept = [keep(store, number, f"7/{number}") for number in range(1, 11)]
    kept += [keep(store, 11, "8/sub/x"), keep(store, 12, "8/sub")]
    others = [keep(store, 13, "8/other"), keep(store, 14, "70/a"), keep(store, 15, "7/1", "https://api.example.com")]
    others += [keep(store, number, f"9/{number}") for number in range(100, 100 + 10 * PAGES)]
    assert all(has(store, each) for each in kept)
    left = [has(store, each) for each in others]
    assert left == sorted(left)
    assert 0 < sum(left) <= FITTING - len(kept)
    assert len(block_files(tmp_path)) == len(kept) + sum(left)
    assert all(load(store, each, 0) is not None for each in kept)


def test_groups_are_kept_too(tmp_path: Path) -> None:
    """A file of several blocks is as pinned as one."""
    store = store_of(tmp_path)
    pin(tmp_path, 7)
    group = key(1, "7/a")
    assert store.save(group, 0, [BLOCK] * GROUP_BLOCKS, stamp_of(store))
    for number in range(100, 100 + 2 * PAGES):
        keep(store, number, f"9/{number}")
    assert load(store, group, GROUP_BLOCKS - 1) is not None


def test_pins_of_another_process(tmp_path: Path) -> None:
    """What another process pins or unpins counts from the next eviction on."""
    store = store_of(tmp_path)
    first = keep(store, 1, "7/a")
    numbers = iter(range(100, 10_000))

    def fill() -> None:
        for _ in range(2 * PAGES):
            number = next(numbers)
            keep(store, number, f"9/{number}")

    pin(tmp_path, 7)
    fill()
    assert has(store, first)
    PinFile(str(tmp_path)).remove(lambda each: each.run_id == 7)
    for file in Path(tmp_path, "blocks-1", first[:1].hex(), first[1:16].hex()).iterdir():
        os.utime(file, (1, 1))
    fill()
    assert not has(store, first)


def test_only_pinned_blocks_are_left(tmp_path: Path) -> None:
    """Then the cache has no room: nothing else is kept, and no pinned block goes."""
    store = store_of(tmp_path)
    pin(tmp_path, 7)
    kept = [keep(store, number, f"7/{number}") for number in range(FITTING)]
    assert not store.save(key(999, "9/x"), 0, [BLOCK], stamp_of(store))
    assert not store.save(key(998, "7/x"), 0, [BLOCK], stamp_of(store))
    assert all(has(store, each) for each in kept)


def test_pinned_blocks_count_as_used(tmp_path: Path) -> None:
    """They were just used, once an eviction has come to them: the next one comes to all others first."""
    store = store_of(tmp_path)
    pin(tmp_path, 7)
    kept = keep(store, 1, "7/a")
    for number in range(100, 100 + FITTING):
        keep(store, number, f"9/{number}")
    found = next(Path(tmp_path, "blocks-1", kept[:1].hex(), kept[1:16].hex()).iterdir())
    assert found.stat().st_mtime > 100 + FITTING


def test_damaged_blocks_are_not_kept(tmp_path: Path) -> None:
    """A block whose place cannot be read is like any; nor does it make the others of its version so."""
    store = store_of(tmp_path)
    pin(tmp_path, 7)
    its_key = keep(store, 1, "7/a")
    assert store.save(its_key, 1, [BLOCK], stamp_of(store))
    first, second = block_files(tmp_path)
    first.write_bytes(b"x" * 10)
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    for number in range(100, 100 + 2 * PAGES):
        keep(store, number, f"9/{number}")
    assert (first.exists(), second.exists()) == (False, True)


def test_a_damaged_list_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The cache works as without pins, and that is said once."""
    store = store_of(tmp_path)
    (tmp_path / "pins.json").write_bytes(b"{")
    first = keep(store, 1, "7/a")
    for number in range(100, 100 + 5 * PAGES):
        keep(store, number, f"9/{number}")
    assert not has(store, first)
    assert len([record for record in caplog.records if "is damaged" in record.getMessage()]) == 1
