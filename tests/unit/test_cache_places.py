"""artifactfs.content: which blocks on disk are of which file (semantics.md 3.6, 4.4)."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.content import usage
from artifactfs.content.block_format import GROUP_BLOCKS
from artifactfs.content.block_store import BlockStore
from artifactfs.content.cache_places import CachePart, encode, place_in
from tests.block_store_harness import DATA, KEY, SMALL, block_files, load, stamp_of, store_in

SITE = "https://api.example.org"
BLOCK = b"x" * SMALL


def key(number: int, place: str, project_id: str = "1", site: str = SITE) -> bytes:
    return number.to_bytes(16, "big") + encode(site, place, project_id)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return store_in(tmp_path, block_bytes=SMALL)


def counted(store: BlockStore) -> int | None:
    """Return the count of bytes that all processes share."""
    fd = os.open(os.path.join(store.directory, "blocks-1"), os.O_RDONLY)
    try:
        return usage.last_known(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("part", "meant"),
    [
        (CachePart(SITE, "7"), "abc"),
        (CachePart(SITE, "7/sub"), "bc"),
        (CachePart(SITE, "7/sub/c"), "c"),
        (CachePart(SITE, "7/su"), ""),
        (CachePart(SITE, "70"), "d"),
        (CachePart(SITE, project_id="1"), "abcd"),
        (CachePart(SITE, "8", "1"), ""),
        (CachePart(SITE), "abcde"),
        (CachePart("https://api.example.com"), "f"),
    ],
)
def test_a_part_of_the_cache(store: BlockStore, part: CachePart, meant: str) -> None:
    """3.6: a run, a directory, a file, a project or a site is deleted, in blocks and groups, and nothing else."""
    places = {"a": "7/a", "b": "7/sub/b", "c": "7/sub/c", "d": "70/sub/c", "e": "8/a", "f": "7/a"}
    keys = {
        name: key(number, place, "2" if name == "e" else "1", "https://api.example.com" if name == "f" else SITE)
        for number, (name, place) in enumerate(places.items())
    }
    for each in keys.values():
        assert store.save(each, 0, [BLOCK] * GROUP_BLOCKS, stamp_of(store))
        assert store.save(each, 40, [BLOCK], stamp_of(store))
    cleared = store.clear(part.covers)
    assert (cleared.files, cleared.blocks, cleared.left_blocks) == (len(meant), len(meant) * (GROUP_BLOCKS + 1), 0)
    for name, each in keys.items():
        assert (load(store, each, 3) is None, load(store, each, 40) is None) == (name in meant,) * 2
    assert store.usage().files == len(keys) - len(meant)
    assert counted(store) == store.usage().size_bytes
    # No directories are left of what is gone.
    assert len(list(Path(store.directory).glob("blocks-1/*/*"))) == len(keys) - len(meant)


def test_a_place_in_a_file(store: BlockStore) -> None:
    """4.4: a block is as long as before for its readers, and any bit of its place that flipped is noticed."""
    mine = key(1, "7/Grün/\x1f ☃")
    for index in (0, 5):
        store.save(mine, index, [DATA], stamp_of(store))
    assert store.held_bytes(mine) == 2 * len(DATA)
    file = block_files(Path(store.directory))[0]
    good = file.read_bytes()
    for at in range(len(good) - len(place_in(mine)) - 8, len(good)):
        for bad in (good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :], good[:at]):
            file.write_bytes(bad)
            found = load(store, mine, 0)
            # A file that ends right behind its blocks is one of an earlier version.
            assert (found is None) == (len(bad) != len(good) - len(place_in(mine)) - 8), at


@pytest.mark.parametrize("harm", ["none", "cut", "flipped", "empty"])
def test_blocks_without_a_place(store: BlockStore, harm: str) -> None:
    """3.6: blocks that do not say of which file they are may be of any, so each part of the cache has them."""
    mine = KEY if harm == "none" else key(1, "9/z")
    store.save(mine, 0, [DATA], stamp_of(store))
    store.save(key(2, "8/y"), 0, [DATA], stamp_of(store))
    file = next(file for file in block_files(Path(store.directory)) if file.parent.name == mine[1:16].hex())
    good = file.read_bytes()
    if harm != "none":
        file.write_bytes({"cut": good[:-3], "flipped": good[:-9] + b"?" + good[-8:], "empty": b""}[harm])
    assert store.clear(CachePart(SITE, "7").covers).blocks == 1
    assert not file.exists()
    assert load(store, key(2, "8/y"), 0) is not None


def test_blocks_that_stay(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.6: what the disk does not let go is counted, and stays counted for all mounts."""
    store.save(key(1, "7/a"), 0, [DATA], stamp_of(store))
    store.save(key(2, "7/b"), 0, [DATA], stamp_of(store))
    before, real = counted(store), os.unlink

    def refuse(name: str, **options: int) -> None:
        if name == "00000000" and refused:
            raise PermissionError(13, "no")
        real(name, **options)

    refused = True
    monkeypatch.setattr(os, "unlink", refuse)
    cleared = store.clear(CachePart(SITE, "7").covers)
    assert (cleared.blocks, cleared.left_blocks, counted(store)) == (0, 2, before)
    refused = False
    assert store.clear(CachePart(SITE, "7").covers).blocks == 2
    assert counted(store) == 0


names = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=8)


@given(st.lists(names, min_size=1, max_size=5), st.lists(names, min_size=1, max_size=5), st.text(max_size=5))
def test_any_names(path: list[str], other: list[str], project_id: str) -> None:
    """3.6: a part has a file if each of its names is the file's, whatever they are."""
    project_id = project_id.encode("utf-8", "ignore").decode()
    place = encode(SITE, "/".join(["7", *path]), project_id)
    part = CachePart(SITE, "/".join(["7", *other]), project_id)
    assert part.covers(place) == (path[: len(other)] == other)
    assert not CachePart(SITE, None, project_id + "x").covers(place)
