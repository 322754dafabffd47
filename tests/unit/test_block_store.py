"""artifactfs.content.block_store: what is kept is what was saved or nothing, whatever happens to the disk."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.block_writes import NewFile
from artifactfs.content.content_tuning import BLOCK_BYTES
from tests.block_store_harness import DATA, KEY, OTHER, PAGE, SMALL, block_files, load, mount_path, stamp_of, store_in


@pytest.fixture
def block_bytes() -> int:
    return BLOCK_BYTES


@pytest.fixture
def store(tmp_path: Path, block_bytes: int) -> BlockStore:
    return store_in(tmp_path, block_bytes=block_bytes)


@pytest.mark.parametrize("validator", [None, b"v" * 16])
@pytest.mark.parametrize("run", [None, b"r" * 16])
def test_what_is_saved_is_loaded(store: BlockStore, validator: bytes | None, run: bytes | None) -> None:
    """4.4: a block comes back with its bytes and all that was known of them."""
    stamp = Provenance(12.5, store.session, validator, run)
    assert store.save(KEY, 7, [DATA], stamp)
    found = load(store, KEY, 7)
    assert found is not None
    assert (bytes(found.data), found.stamp.validator, found.stamp.content_stamp) == (DATA, validator, run)
    assert found.stamp.fetched_at == 12.5
    assert load(store, KEY, 8) is None
    assert load(store, OTHER, 7) is None


def test_a_session_is_known_again(store: BlockStore) -> None:
    """4.3: a block says which mount fetched it."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    found = load(store, KEY, 0)
    assert found is not None
    assert found.stamp.session == store.session


def test_any_flipped_bit_is_noticed(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a bit that flipped anywhere in a block's file: the block is gone, never wrong."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    (file,) = block_files(tmp_path)
    good = file.read_bytes()
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        assert load(store, KEY, 0) is None, place
        assert not file.exists()


def test_parts_of_a_block_are_kept(tmp_path: Path, store: BlockStore) -> None:
    """4.3, 4.4: parts come back with their places, or not at all where a bit flipped; the whole block replaces them."""
    parts = ((3, 10), (100, 100 + len(DATA) - 7))
    stamp = msgspec.structs.replace(stamp_of(store), parts=parts)
    assert store.save(KEY, 0, [DATA], stamp)
    found = load(store, KEY, 0)
    assert found is not None
    assert (bytes(found.data), found.stamp) == (DATA, stamp)
    (file,) = block_files(tmp_path)
    good = file.read_bytes()
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        assert load(store, KEY, 0) is None, place
    assert store.save(KEY, 0, [DATA], stamp_of(store))
    found = load(store, KEY, 0)
    assert found is not None
    assert found.stamp.parts is None


@pytest.mark.parametrize(
    "parts",
    [(), ((5, 3),), ((0, len(DATA) - 1),), ((0, 2), (1, len(DATA) - 1)), ((BLOCK_BYTES, BLOCK_BYTES + len(DATA)),)],
)
def test_parts_that_make_no_sense_are_none(store: BlockStore, parts: tuple[tuple[int, int], ...]) -> None:
    """4.1: a table of parts that are not in order, not in the block, or not as long as the bytes that are there."""
    store.save(KEY, 0, [DATA], msgspec.structs.replace(stamp_of(store), parts=parts))
    assert load(store, KEY, 0) is None


@pytest.mark.parametrize("length", [0, 1, 50, -1, -len(DATA)])
def test_a_cut_file_is_noticed(tmp_path: Path, store: BlockStore, length: int) -> None:
    """4.4: a file that is shorter than it was."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    (file,) = block_files(tmp_path)
    file.write_bytes(file.read_bytes()[:length])
    assert load(store, KEY, 0) is None
    assert not file.exists()


def test_a_file_that_grew_is_noticed(tmp_path: Path, store: BlockStore) -> None:
    """4.4: bytes behind a block's end."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    (file,) = block_files(tmp_path)
    file.write_bytes(file.read_bytes() + b"\0")
    assert load(store, KEY, 0) is None


def test_a_block_in_the_wrong_place_is_none(tmp_path: Path, store: BlockStore) -> None:
    """4.4: a good file of another block, or of another version, under this name."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    store.save(OTHER, 1, [DATA[::-1]], stamp_of(store))
    one, other = block_files(tmp_path)
    os.rename(other, one)
    assert load(store, KEY, 0) is None


def test_a_link_is_not_followed(tmp_path: Path, store: BlockStore) -> None:
    """6.2: a link in a block's place is not read through."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    (file,) = block_files(tmp_path)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert load(store, KEY, 0) is None


def test_what_is_not_accepted_goes(tmp_path: Path, store: BlockStore) -> None:
    """4.3: a block that no longer holds is deleted, and no longer counted."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    assert load(store, KEY, 0, lambda _stamp: False) is None
    assert not block_files(tmp_path)
    assert store.usage().size_bytes == 0


def test_wiped_while_in_use(tmp_path: Path) -> None:
    """4.4, 6.2: the whole directory goes; what is saved next is kept, for the user's eyes only."""
    directory = tmp_path / "cache"
    store = store_in(directory)
    store.save(KEY, 0, [DATA], stamp_of(store))
    subprocess.run(["rm", "-r", str(directory)], check=True)
    assert load(store, KEY, 0) is None
    previous = os.umask(0)
    try:
        assert store.save(KEY, 0, [DATA], stamp_of(store))
    finally:
        os.umask(previous)
    assert load(store, KEY, 0) is not None
    for path in [directory, *directory.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["open", "writev", "rename"])
def test_a_disk_that_refuses(
    store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """4.4: a full, read-only or broken disk keeps nothing, raises nothing, and is left alone for a while."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    now = [100.0]
    calls = []

    def refuse(*_args: object, **_more: object) -> int:
        calls.append(1)
        raise OSError(code, "refused")

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        assert not store.save(KEY, 1, [DATA], stamp_of(store))
        tried = len(calls)
        assert not store.save(KEY, 2, [DATA], stamp_of(store))
        assert len(calls) == tried
    assert not store.save(KEY, 2, [DATA], stamp_of(store))
    now[0] += 11
    assert store.save(KEY, 2, [DATA], stamp_of(store))
    assert load(store, KEY, 0) is not None
    assert load(store, KEY, 1) is None
    assert len(block_files(tmp_path)) == 2


def test_a_disk_that_takes_part_of_a_block(store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: a write that the disk cut short leaves no block."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", lambda fd, pieces: os.write(fd, (data := b"".join(pieces))[: len(data) // 2]))
        assert not store.save(KEY, 0, [DATA], stamp_of(store))
    assert not block_files(tmp_path)


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    """4.4: reading counts as use; what was used longest ago goes, and no more than makes room."""
    limit = 40 * PAGE
    store = store_in(tmp_path, max_bytes=limit, block_bytes=SMALL)
    for index in range(39):
        assert store.save(KEY, index, [DATA], stamp_of(store))
        os.utime(mount_path(store, KEY, index, 1), (index, index))
    assert load(store, KEY, 0) is not None  # used just now
    assert store.save(KEY, 39, [DATA], stamp_of(store))
    assert store.save(KEY, 40, [DATA], stamp_of(store))
    assert store.usage().size_bytes <= limit
    assert load(store, KEY, 0) is not None
    assert load(store, KEY, 1) is None
    assert load(store, KEY, 38) is not None
    assert load(store, KEY, 40) is not None


def test_what_must_stay_free(store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: `cache_min_free` is left on the disk: others' files push out ours."""
    for index in range(10):
        store.save(KEY, index, [DATA], stamp_of(store))
    free = [5 * PAGE]
    real = os.statvfs(tmp_path)

    def statvfs(_path: str | int) -> os.statvfs_result:
        gained = 10 - len([file for file in block_files(tmp_path) if not file.name.startswith(".")])
        values = list(real)
        values[1], values[4] = PAGE, free[0] // PAGE + gained
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", statvfs)
    store._min_free_bytes = 8 * PAGE
    assert store.save(KEY, 10, [DATA], stamp_of(store))
    assert store.usage().blocks == 7
    free[0] = -20 * PAGE
    assert not store.save(KEY, 11, [DATA], stamp_of(store))


_WRITER = """
import sys
import time
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
store = BlockStore(sys.argv[1], max_bytes=int(sys.argv[2]), min_free_bytes=0)
for index in range(150):
    store.save(sys.argv[3].encode() * 16, index, [bytes(4000)], Provenance(0.0, store.session))
    with store._total():  # while the other adds nothing
        assert store.usage().size_bytes <= int(sys.argv[2]), store.usage()
"""


def test_one_limit_for_several_processes(tmp_path: Path) -> None:
    """4.4: two processes that write at once hold one limit between them."""
    limit = 100 * PAGE
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(limit), name], stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == b""
        assert writer.returncode == 0
    assert 0 < store_in(tmp_path).usage().size_bytes <= limit


def test_what_others_are_writing_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.4: an eviction leaves room for what another mount has begun to write, and does not take it away."""
    limit = 40 * PAGE
    one, other = store_in(tmp_path, max_bytes=limit), store_in(tmp_path, max_bytes=limit)
    for index in range(30):
        assert one.save(KEY, index, [DATA], stamp_of(one))
    real = os.rename

    def rename(aside: str, name: str, **where: int) -> None:
        monkeypatch.setattr(os, "rename", real)
        for index in range(30, 60):
            assert one.save(KEY, index, [DATA], stamp_of(one))
        assert one.usage().size_bytes <= limit - 10 * PAGE
        real(aside, name, **where)

    monkeypatch.setattr(os, "rename", rename)
    large = bytes(9 * PAGE)
    assert other.save(OTHER, 0, [large], stamp_of(other))
    usage = one.usage()
    assert usage.size_bytes <= limit
    with one._total() as total:
        assert total.value == usage.size_bytes
    found = load(one, OTHER, 0)
    assert found is not None
    assert bytes(found.data) == large


@pytest.mark.parametrize("way", ["clear", "discard"])
def test_the_count_is_never_too_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """4.4: what one mount deletes while another counts, or writes while another clears, is not counted off twice."""
    limit = 40 * PAGE
    one, other = store_in(tmp_path, max_bytes=limit), store_in(tmp_path, max_bytes=limit)
    for index in range(38):
        assert one.save(KEY, index, [DATA], stamp_of(one))
    if way == "discard":
        real_unlink = os.unlink

        def unlink(name: str, *, dir_fd: int) -> None:
            monkeypatch.setattr(os, "unlink", real_unlink)
            real_unlink(name, dir_fd=dir_fd)
            # Another process would wait for the lock.
            with open(tmp_path / "blocks-1" / "usage", "rb") as usage, pytest.raises(BlockingIOError):
                fcntl.flock(usage, fcntl.LOCK_EX | fcntl.LOCK_NB)

        monkeypatch.setattr(os, "unlink", unlink)
        other.discard(KEY)
        assert not block_files(tmp_path)
    else:
        real_rename = os.rename

        def rename(aside: str, name: str, **where: int) -> None:
            one.clear()
            real_rename(aside, name, **where)

        monkeypatch.setattr(os, "rename", rename)
        assert other.save(OTHER, 0, [bytes(9 * PAGE)], stamp_of(other))
    with one._total() as total:
        assert total.value == one.usage().size_bytes


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 12, b"\0" * 16, b"\xff" * 16, b"junk that is longer than it should be"]
)
def test_a_damaged_count_is_repaired(tmp_path: Path, damage: bytes) -> None:
    """4.4: the limit holds also after the count of what is there was lost or damaged."""
    limit = 40 * PAGE
    store = store_in(tmp_path, max_bytes=limit, block_bytes=SMALL)
    for index in range(38):
        store.save(KEY, index, [DATA], stamp_of(store))
    (tmp_path / "blocks-1" / "usage").write_bytes(damage)
    for index in range(38, 60):
        assert store.save(KEY, index, [DATA], stamp_of(store))
        assert store.usage().size_bytes <= limit


def test_usage_verify_and_clear(tmp_path: Path, store: BlockStore) -> None:
    """4.4: what is there is counted, what is damaged is found and deleted, and all of it goes when asked."""
    for index in range(3):
        store.save(KEY, index, [DATA], stamp_of(store))
    store.save(OTHER, 0, [DATA], stamp_of(store))
    usage = store.usage()
    assert (usage.size_bytes, usage.blocks, usage.files) == (4 * PAGE, 4, 2)
    victim = block_files(tmp_path)[1]
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert [(path, is_deleted) for path, _, is_deleted in store.verify()] == [(str(victim), True)]
    assert list(store.verify()) == []
    assert store.usage().blocks == 3
    assert store.clear().blocks == 3
    assert store.usage().size_bytes == 0
    assert not block_files(tmp_path)


def test_a_damaged_block_that_cannot_be_deleted(
    tmp_path: Path, store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.4: on a disk that is read-only by now, say: nothing says that it is gone."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    (victim,) = block_files(tmp_path)
    victim.write_bytes(b"!")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        assert [is_deleted for _, _, is_deleted in store.verify()] == [False]
    assert [is_deleted for _, _, is_deleted in store.verify()] == [True]
    assert store.save(KEY, 0, [DATA], stamp_of(store))


def test_what_is_evicted_while_it_is_verified_is_not_damaged(store: BlockStore) -> None:
    """4.4: a block that goes in this moment is no damage."""
    store.save(KEY, 0, [DATA], stamp_of(store))
    store.save(OTHER, 0, [DATA], stamp_of(store))
    found = list(store._files())
    store._files = lambda: iter(found)  # type: ignore[method-assign]
    store.discard(KEY)
    assert list(store.verify()) == []


def test_more_at_once_than_the_cache_can_hold(tmp_path: Path) -> None:
    """4.4: several small blocks that are written together are cached as far as there is room, not refused together."""
    store = store_in(tmp_path, max_bytes=6 * PAGE)
    assert store.save(OTHER, 0, [DATA], stamp_of(store))
    files = [NewFile(KEY, index, [DATA], stamp_of(store)) for index in range(16)]
    assert not store.save_all(files)
    kept = [index for index in range(16) if load(store, KEY, index) is not None]
    assert kept == list(range(len(kept)))
    assert 3 <= len(kept) <= 5
    assert store.usage().size_bytes <= store.max_bytes
    assert store.total_bytes is not None
    assert store.total_bytes >= store.usage().size_bytes


def test_a_block_that_is_larger_than_the_cache(tmp_path: Path) -> None:
    """4.4: what can never fit evicts nothing, and keeps nothing else from being cached."""
    store = store_in(tmp_path, max_bytes=6 * PAGE)
    assert store.save(KEY, 0, [DATA], stamp_of(store))
    assert not store.save(KEY, 1, [bytes(8 * PAGE)], stamp_of(store))
    assert load(store, KEY, 0) is not None
    assert store.save(KEY, 2, [DATA], stamp_of(store))
