"""artifactfs.content.block_store: what killed writers left, links in the store, and what is not ours in it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.content.block_format import Block, Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.cache_dir import ForeignDirectory
from tests.harness import needs_root

KEY = bytes(range(16))
OTHER = bytes(range(1, 17))
DATA = b"a tensor, or the piece of one" * 3
PAGE = 4096
LIMIT = 40 * PAGE


def store_in(path: Path, max_bytes: int = LIMIT) -> BlockStore:
    return BlockStore(str(path), max_bytes=max_bytes, min_free_bytes=0)


def save(store: BlockStore, index: int = 0, *, key: bytes = KEY, data: bytes = DATA) -> bool:
    return store.save(key, index, [data], Provenance(0.0, store.session))


def load(store: BlockStore, index: int = 0, *, key: bytes = KEY) -> Block | None:
    (found,) = store.load(key, [index], lambda _stamp: True)
    return found


def directory_of(path: Path, key: bytes = KEY) -> Path:
    name = key.hex()
    return path / "blocks-1" / name[:2] / name[2:]


def asides(path: Path) -> list[Path]:
    return [file for file in path.glob("blocks-1/*/*/.*") if not file.name.startswith(".nfs")]


def counted(store: BlockStore) -> int:
    with store._total() as total:
        return total.value


_DYING = """
import os, sys
from artifactfs.content import block_format
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
path, when, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = BlockStore(path, max_bytes=1 << 30, min_free_bytes=0)
def dying(fd, pieces):
    data = b"".join(pieces)
    os.write(fd, data[:len(data) // 2] if when == "half" else data)
    os._exit(9)
if when == "empty":
    block_format.write = lambda *_: os._exit(9)
elif when == "full":
    os.rename = lambda *_, **__: os._exit(9)
else:
    os.writev = dying
for key in range(int(sys.argv[4])):
    if not os.fork():
        store.save(bytes([key]) * 16, 0, [bytes(size)], Provenance(0.0, store.session))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
"""


def leave(path: Path, when: str = "full", *, size: int = 20 * PAGE, count: int = 1) -> None:
    """Have writers killed in the middle of what they write."""
    subprocess.run([sys.executable, "-c", _DYING, str(path), when, str(size), str(count)], check=True)
    assert len(asides(path)) == count


WAYS = ["empty", "half", "full"]


@pytest.mark.parametrize("when", WAYS)
def test_what_a_killed_writer_left_goes_at_the_next_start(tmp_path: Path, when: str) -> None:
    """4.4: an empty, half or whole file of a killed writer is no block, and the next start deletes it."""
    leave(tmp_path, when, count=3)
    store = store_in(tmp_path)
    assert store.claim()
    assert load(store, key=bytes(16)) is None
    assert store.usage().blocks == 0
    store.sweep()
    assert asides(tmp_path) == []
    assert counted(store) == store.total_bytes == 0
    # Nor is the directory left that it was in.
    assert [each.name for each in (tmp_path / "blocks-1").glob("*/*")] == []


@pytest.mark.parametrize("when", WAYS)
@pytest.mark.parametrize("start", [False, True])
def test_leftovers_do_not_keep_a_small_cache_from_working(tmp_path: Path, when: str, start: bool) -> None:
    """4.4: eight leftovers as large as the cache: a mount keeps at once, also one that lived beside the killed ones."""
    beside = store_in(tmp_path)
    assert save(beside)
    leave(tmp_path, when, count=8)
    store = store_in(tmp_path) if start else beside
    if start:
        store.sweep()
        assert asides(tmp_path) == []
    for index in range(1, 30):
        assert save(store, index)
    assert asides(tmp_path) == []
    assert load(store) is not None
    assert counted(store) == store.usage().size_bytes == 30 * PAGE


@pytest.mark.parametrize("name", [".0123456789abcdef-1-14000", ".ab-99-ffffffffffffffff", ".4711-3-0"])
@pytest.mark.parametrize("mtime", [0, time.time(), 4e9], ids=["old", "now", "to come"])
@pytest.mark.parametrize("real", [0, 1, 5 * PAGE])
def test_leftovers_of_any_age_and_name(tmp_path: Path, name: str, mtime: float, real: int) -> None:
    """4.4: neither the time of a leftover nor the size in its name counts: no writer holds it."""
    store = store_in(tmp_path)
    assert save(store)
    left = directory_of(tmp_path) / name
    left.write_bytes(bytes(real))
    os.utime(left, (mtime, mtime))
    assert store.usage().size_bytes == PAGE
    if mtime:
        store.sweep()
    else:
        assert save(store, 1, data=bytes(38 * PAGE))
    assert not left.exists()
    assert counted(store) == store.usage().size_bytes <= LIMIT


@needs_root
def test_a_leftover_that_cannot_be_deleted_counts_as_it_is(tmp_path: Path) -> None:
    """4.4: what stays counts with its real size, and not with the one in its name."""
    store = store_in(tmp_path)
    assert save(store)
    left = directory_of(tmp_path) / ".0123456789abcdef-1-ffffffff"
    left.write_bytes(bytes(2 * PAGE))
    subprocess.run(["chattr", "+i", str(left)], check=True)
    try:
        for index in range(1, 60):
            assert save(store, index, key=OTHER)
        assert counted(store) == store.usage().size_bytes + 2 * PAGE <= LIMIT
    finally:
        subprocess.run(["chattr", "-i", str(left)], check=True)


@pytest.fixture
def writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have something done while another mount is in the middle of writing 9 pages."""
    done: list[bool] = []

    def during(act: Callable[[], object]) -> None:
        other, real = store_in(tmp_path), os.rename

        def rename(aside: str, name: str, **where: int) -> None:
            monkeypatch.setattr(os, "rename", real)
            act()
            real(aside, name, **where)

        monkeypatch.setattr(os, "rename", rename)
        assert save(other, key=OTHER, data=bytes(9 * PAGE))
        done.append(True)

    yield during
    assert done


@pytest.mark.parametrize("act", ["sweep", "clear", "evict", "verify"])
def test_what_a_living_writer_writes_stays(
    tmp_path: Path, writing: Callable[[Callable[[], object]], None], act: str
) -> None:
    """4.4: what another mount is writing in this moment is no leftover: it is not taken away, and it counts."""
    store = store_in(tmp_path)
    assert save(store)

    def look() -> None:
        if act == "evict":
            for index in range(1, 60):
                assert save(store, index)
            assert store.usage().size_bytes <= LIMIT - 10 * PAGE
        elif act == "verify":
            assert list(store.verify()) == []
        else:
            getattr(store, act)()
        assert len(asides(tmp_path)) == 1
        assert counted(store) == store.usage().size_bytes + 10 * PAGE

    writing(look)
    assert load(store, key=OTHER) is not None
    assert counted(store) == store.usage().size_bytes


# --- links in the store ------------------------------------------------------------------------------------


def victim(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """Make a directory that looks like a store's parts at every depth; returns it and what is in it."""
    path = tmp_path / "victim"
    name = KEY.hex()
    for place in ("", "blocks-1", name[:2], name[2:], f"blocks-1/{name[:2]}/{name[2:]}", f"{name[:2]}/{name[2:]}"):
        (path / place).mkdir(parents=True, exist_ok=True)
        for file in ("usage", "00000000", "00000001", "00000000-group", ".0123456789abcdef-1-1000"):
            (path / place / file).write_bytes(b"precious")
    return path, contents(path)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("place", ["", "blocks-1", "upper", "lower", "block", "group", "usage"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_link_that_appears_is_not_followed(tmp_path: Path, place: str, hidden: bool) -> None:
    """6.2: a link in the place of any part of a cache in use: nothing behind it is read, written or deleted."""
    cache = tmp_path / "cache"
    store = store_in(cache)
    assert store.claim()
    assert save(store)
    path, before = victim(tmp_path)
    lower = directory_of(cache)
    at = {"": cache, "blocks-1": cache / "blocks-1", "upper": lower.parent, "lower": lower, "block": lower / "00000000",
          "group": lower / "00000000-group", "usage": cache / "blocks-1" / "usage"}[place]  # fmt: skip
    target = path / "00000000" if place in ("block", "group", "usage") else path
    if place != "group":
        if hidden:
            at.rename(tmp_path / "hidden")
        elif at.is_dir():
            subprocess.run(["rm", "-r", str(at)], check=True)
        else:
            at.unlink()
    at.symlink_to(target)
    for _ in range(2):
        store._paused_until = 0.0
        load(store)
        save(store)
        save(store, 1)
        store.save(KEY, 0, [bytes(10)] * 8, Provenance(0.0, store.session))
        store.usage()
        list(store.verify())
        store.held_bytes(KEY)
        store.sweep()
        for index in range(60):
            save(store, index, key=OTHER)
        store.discard(KEY)
        store.clear()
    assert contents(path) == before
    # Another mount that starts now.
    another = store_in(cache)
    if place:
        assert another.claim()
        another._paused_until = 0.0
        save(another)
        another.clear()
    else:
        with pytest.raises(ForeignDirectory):
            another.claim()
    assert contents(path) == before


@pytest.mark.parametrize("place", ["upper", "lower", "block"])
@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_what_has_the_name_of_ours_makes_way(tmp_path: Path, place: str, kind: str) -> None:
    """4.4: a link, a file or a pipe in the place of a directory or a block costs no more than what was there."""
    store = store_in(tmp_path)
    assert save(store)
    lower = directory_of(tmp_path)
    at = {"upper": lower.parent, "lower": lower, "block": lower / "00000000"}[place]
    subprocess.run(["rm", "-r", str(at)], check=True)
    if kind == "link":
        at.symlink_to(tmp_path)
    elif kind == "file":
        at.write_bytes(b"")
    else:
        os.mkfifo(at)
    assert load(store) is None
    assert save(store)
    found = load(store)
    assert found is not None
    assert bytes(found.data) == DATA


# --- what is not ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["note.txt", "blocks-1/core", "blocks-1/ab/core", "blocks-1/zz/x/00000000", "@/note.txt", "@/.hidden",
     "@/.nfs000001", "@/0000", "@/00000000.bak", "@/00000000-groups", "blocks-2/ab/cd/00000000"],
)  # fmt: skip
def test_files_of_others_stay(tmp_path: Path, name: str) -> None:
    """4.4: a file that has no name of ours is not counted, not evicted and not cleared."""
    store = store_in(tmp_path)
    assert save(store)
    path = tmp_path / name.replace("@", str(directory_of(tmp_path).relative_to(tmp_path)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(100 * PAGE))
    assert store.usage().size_bytes == PAGE
    assert list(store.verify()) == []
    for index in range(60):
        assert save(store, index)
    store.discard(KEY)
    assert save(store)
    store.sweep()
    assert store.clear().blocks == 1
    assert path.stat().st_size == 100 * PAGE
    assert counted(store) == 0


@needs_root
@pytest.mark.parametrize("name", ["00000007", ".0123456789abcdef-1-ffff0000"])
def test_files_of_other_users_stay(tmp_path: Path, name: str) -> None:
    """4.4: a file of another user in the store, whatever its name, is neither counted nor deleted."""
    store = store_in(tmp_path)
    assert save(store)
    path = directory_of(tmp_path) / name
    path.write_bytes(bytes(100 * PAGE))
    os.chown(path, 12345, 12345)
    for index in range(60):
        assert save(store, index, key=OTHER)
    store.sweep()
    store.clear()
    assert path.exists()
    assert counted(store) == 0


# --- wiped while it is used --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["all", "inner", "tree", "mark", "usage"])
def test_wiped_in_use(tmp_path: Path, what: str) -> None:
    """4.4: whatever is deleted of a cache in use is made again with the next block, the mark included."""
    cache = tmp_path / "cache"
    store, beside = store_in(cache), store_in(cache)
    assert store.claim()
    assert save(store)
    assert save(beside, 1)
    wiped = {
        "all": cache,
        "tree": cache / "blocks-1",
        "mark": cache / "CACHEDIR.TAG",
        "usage": cache / "blocks-1/usage",
    }
    for path in cache.iterdir() if what == "inner" else [wiped[what]]:
        subprocess.run(["rm", "-r", str(path)], check=True)
    for each, index in ((store, 2), (beside, 3), (store, 4)):
        assert save(each, index)
    # Both have the same again.
    assert load(beside, 2) is not None
    assert load(store, 3) is not None
    assert (load(store) is None) == (what in ("all", "inner", "tree"))
    assert (cache / "CACHEDIR.TAG").exists() == (what != "mark")
    assert store_in(cache).claim()
    assert (cache / "CACHEDIR.TAG").exists()


def test_wiped_and_another_program_was_quicker(tmp_path: Path) -> None:
    """6.2: where a cache was, and something else is now, nothing is kept any more."""
    cache = tmp_path / "cache"
    store = store_in(cache)
    assert store.claim()
    assert save(store)
    subprocess.run(["rm", "-r", str(cache)], check=True)
    cache.mkdir(mode=0o755)
    (cache / "thesis.tex").write_bytes(b"mine")
    for _ in range(2):
        store._paused_until = 0.0
        assert not save(store)
        assert load(store) is None
    assert [each.name for each in cache.iterdir()] == ["thesis.tex"]
    assert cache.stat().st_mode & 0o777 == 0o755
